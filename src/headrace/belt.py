"""The names under which Headrace keeps things in Redis begin here.

Owns the prefix. Its braces are the hash tag of Redis Cluster: all keys of the belt lie in one slot, and so on one node,
because one command reads many lanes or many queues. A cluster gives the belt another node when that one dies, and room
beside it to others; it does not spread the belt, which one node carries several times over. Never name a key of the
belt without it.
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = "headrace:{belt}:"
