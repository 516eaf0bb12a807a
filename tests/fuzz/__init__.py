"""Hostile and broken files, made by the thousand, against everything that reads a file.

=============  ================================================================================
module         contents
=============  ================================================================================
``structs``    structures that are wrong somewhere, drawn by hypothesis
``pickles``    pickles that call, import, shadow, nest or ask for memory
``archives``   files that are cut off, flipped, packed in other ways, or of another kind
``configs``    configs inside a checkpoint and beside one
``exported``   ``.onnx`` files and their metadata
``cases``      all of them by kind: a number of :class:`Case` of each
``readers``    what reads a file: ``load``, ``info``, ``convert``, the commands' configs, …
``watch``      no code runs, nothing else is opened, memory and time are bounded
``__main__``   ``python -m tests.fuzz``: reads all of them, and prints what happened
=============  ================================================================================
"""
