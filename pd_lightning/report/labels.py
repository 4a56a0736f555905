"""What students are called: by what tells them apart, and nothing twice."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pd_lightning.report.runs import Student

ALWAYS_SAID = ("begins_with", "batch_size", "mixing", "weights", "learn", "fresh", "buffer_size", "learning_rate",
               "optimizer", "lr_scheduler", "protocol", "FIRE")  # fmt: skip
"""Settings that are shown even where all students share them."""


def shared_settings(students: Iterable[Student]) -> tuple[str, ...]:
    """What is set to the same for all of them."""
    every = [student.said for student in students]
    return tuple(each for each in every[0] if all(each in other for other in every)) if len(every) > 1 else ()


def told_apart(student: Student, shared: tuple[str, ...]) -> str:
    """A student's loss, who acted, and those of its settings that not all have."""
    return ", ".join(filter(None, [student.loss, student.acts, *worth_saying(student, shared)]))


def worth_saying(student: Student, shared: tuple[str, ...]) -> list[str]:
    """What not all share; of a student that is alone, what is always said."""
    return [each for each in student.said if (each not in shared if shared else always_said(each))]


def always_said(setting: str) -> bool:
    """Whether a setting, as it is shown, is said even if all share it."""
    return setting.split()[0] in ALWAYS_SAID


def parts_of(student: Student, shared: tuple[str, ...]) -> dict[str, str]:
    """All that a table says of its students."""
    settings = [each for each in student.said if always_said(each) or (shared and each not in shared)]
    return {"size": student.size, "loss": student.loss, "updates": f"{student.updates:,} updates",
            "acts": student.acts, **{each: each for each in settings}}  # fmt: skip


def about(student: Student, shared: tuple[str, ...], *without: str) -> str:
    """What a table's students have in common."""
    return ", ".join(text for name, text in parts_of(student, shared).items() if name not in without and text)


def compared(students: Collection[Student], shared: tuple[str, ...]) -> tuple[str, dict[Student, str]]:
    """What students have in common, and what each is called by the rest; of one that is alone, all."""
    parts = {student: [text for text in parts_of(student, shared).values() if text] for student in students}
    first = next(iter(parts.values()))
    common = [text for text in first if len(parts) > 1 and all(text in other for other in parts.values())]
    names: dict[Student, str] = {}
    for student, texts in parts.items():
        name = ", ".join(text for text in texts if text not in common)
        # Those that differ only in what is left unsaid elsewhere.
        names[student] = name if name and name not in names.values() else ", ".join(student.settings)
    return ", ".join(common), names


def label_of(student: Student, shared: tuple[str, ...], *, updates: bool = False) -> str:
    """What a line is called, but for settings that all lines share; `updates` if they differ in those."""
    together = [f"{len(student.games)} games"] if len(student.games) > 1 else []
    after = [f"{student.updates:,} updates"] if updates else []
    return ", ".join(filter(None, [student.size, told_apart(student, shared), *together, *after]))
