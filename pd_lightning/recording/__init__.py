"""A teacher plays, a dataset is written: `python -m pd_lightning.recording --game pong --hours 1`.

A shard is about an hour of play (54,000 steps) in whole episodes: once the hour is full no new episode starts, and
those that run are finished. Seeds follow from the shard's number, so shards can be recorded in any order, on many
machines, or again; finished ones are kept, and a killed recording is carried on by the same command. The same command
in two terminals shares the work.
"""

from pd_lightning.recording.command import record, record_play
from pd_lightning.recording.shards import header_of, record_shard

__all__ = ["header_of", "record", "record_play", "record_shard"]
