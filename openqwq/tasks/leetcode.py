"""What LeetCode's judge gives to a solution: usual imports, linked lists and binary trees."""

LEETCODE_SETUP = """
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from operator import *
from typing import *

inf = float("inf")


class ListNode:
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next


class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val = val
        self.left = left
        self.right = right


def list_node(values):
    head = None
    for value in reversed(values):
        head = ListNode(value, head)
    return head


def is_same_list(a, b):
    while a and b:
        if a.val != b.val:
            return False
        a, b = a.next, b.next
    return not a and not b


def tree_node(values):
    if not values:
        return None
    root = TreeNode(values[0])
    level, rest = collections.deque([root]), collections.deque(values[1:])
    while rest:
        node = level.popleft()
        for side in ("left", "right"):
            if rest and (value := rest.popleft()) is not None:
                setattr(node, side, TreeNode(value))
                level.append(getattr(node, side))
    return root


def is_same_tree(a, b):
    if not a or not b:
        return not a and not b
    return a.val == b.val and is_same_tree(a.left, b.left) and is_same_tree(a.right, b.right)
"""
