"""Channels that can only be removed together: a union of ids, and the classes that must stay."""

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

#: The id of what is no channel, or of no channel that can be followed.
NO_CHANNEL = 0


class ChannelClasses:
    """Ids of channels, joined into classes that go together.

    An id stands for one entry of one dimension: an output of a layer, an input of a layer, an entry
    of a norm. Ids of the elements of a parameter are *loose*: which of its dimensions are channels
    shows only when it meets a map with channels.
    """

    def __init__(self):
        self._parent = np.zeros(1, np.int64)
        # Which ids are elements of parameters, and which classes are still without channels.
        self._elements = np.zeros(1, bool)
        self._loose = np.zeros(1, bool)
        self._parts = []
        self._kept = [(np.array([NO_CHANNEL]), "meets channels that cannot be followed")]

    def new(self, *shape, loose=False):
        """Fresh ids.

        Args:
            shape (int): of the tensor of ids.
            loose (bool): whether they are elements of a parameter.

        Returns:
            Tensor: int64.
        """
        start, count = len(self._parent), int(np.prod(shape, dtype=np.int64))
        ids = np.arange(start, start + count)
        self._parent = np.concatenate([self._parent, ids])
        self._elements = np.concatenate([self._elements, np.full(count, loose)])
        self._loose = np.concatenate([self._loose, np.full(count, loose)])
        return torch.from_numpy(ids).reshape(shape)

    def classes(self, ids):
        """The class of each id, an id of the class (array of int64).

        Args:
            ids (Tensor | ndarray): any shape.
        """
        found = self._parent[np.asarray(ids)]
        while True:
            further = self._parent[found]
            if np.array_equal(further, found):
                return found
            found = further

    def channels(self, ids):
        """Ids as they are, with the classes of elements in their place (array of int64).

        Channels of one class are still several channels. What elements of a parameter are shows
        only in their class.

        Args:
            ids (Tensor | ndarray): any shape.
        """
        ids = np.asarray(ids)
        return np.where(self._elements[ids], self.classes(ids), ids)

    def is_loose(self, classes):
        """Which classes hold elements of parameters alone (array of bool)."""
        return self._loose[classes]

    def join(self, ones, others):
        """Make one class of the classes of each pair.

        Args:
            ones (Tensor | ndarray), others (Tensor | ndarray): ids, of the same shape.
        """
        pairs = np.stack([self.classes(ones).ravel(), self.classes(others).ravel()])
        roots, at = np.unique(pairs, return_inverse=True)
        one, other = at.reshape(pairs.shape)  # flat before numpy 2
        links = coo_array((np.ones(len(one)), (one, other)), (len(roots), len(roots)))
        _, joined = connected_components(links, directed=False)
        _, first = np.unique(joined, return_index=True)
        # Of the classes that are joined, the smallest stands for all.
        self._parent[roots] = smallest = roots[first][joined]
        np.logical_and.at(self._loose, smallest, self._loose[roots])

    def divide(self, ids):
        """Say that parts of channels must stay equally wide.

        Args:
            ids (Tensor): (parts, channels of each).
        """
        self._parts.append(ids.numpy().copy())

    def parts(self):
        """The classes in what must stay equally wide (list[ndarray]: parts, channels of each)."""
        return [self.classes(ids) for ids in self._parts]

    def keep(self, ids, reason):
        """Say that channels stay.

        Args:
            ids (Tensor | ndarray): any shape.
            reason (str): why.
        """
        self._kept.append((np.unique(np.asarray(ids)), reason))

    def kept(self):
        """Why classes stay (dict[int, str]): the first reason of each class."""
        found = {}
        for ids, reason in self._kept:
            for each in self.classes(ids):
                found.setdefault(int(each), reason)
        return found
