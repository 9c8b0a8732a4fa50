"""Models: which nets can be trained, by name. One file each: its keys, and how it is built for the data.

A file imports torch, if at all, inside ``build``: help and error messages come at once. The nets themselves are in
:mod:`surgecollapse.lab.nets`.
"""
