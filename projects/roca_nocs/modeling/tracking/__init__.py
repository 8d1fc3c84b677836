"""Queries through time: which object queries travel to the next frame, and how they change.

All tracks of a batch of clips are rows of one table, ordered by clip; nothing loops over clips.
"""
