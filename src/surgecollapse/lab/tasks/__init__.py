"""Tasks: what can be learned, by name. One file each, or one for tasks that share their keys.

A file has the keys of the task, the settings that make it just work, and how it is loaded. It imports torch, if at all,
inside ``load``: help and error messages come at once.
"""
