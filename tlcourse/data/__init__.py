"""Data sets, all in one form: images, or windows of sensors; labels; the names of the classes.

Embedded, on every machine: :func:`digits` (handwritten, the target), :func:`glyphs` (printed, the
source), :func:`surfaces` (pieces of photographs) and :func:`scenes` (several tasks on one image).
Inside a package: :func:`mnist5k`. Found on this machine or downloaded: :func:`mnist` and
:func:`cifar10`. Put there by hand: :func:`usps`. Another look for digits: :func:`on_photographs`. A
reader's own: :func:`image_folder`. Nothing is fetched, and no large library
loaded, at import.

Of motion sensors: :func:`imu` (simulated, embedded), :func:`basic_motions` (inside a package), and
:func:`dsa`, :func:`hapt`, :func:`uci_har`, which the reader puts on this machine.
"""

from tlcourse.data.augment import random_crop_flip, random_shift
from tlcourse.data.basic_motions import basic_motions
from tlcourse.data.cifar10 import cifar10
from tlcourse.data.digits import digits
from tlcourse.data.dsa import dsa
from tlcourse.data.folder import image_folder, load_image
from tlcourse.data.glyphs import glyphs
from tlcourse.data.hapt import hapt
from tlcourse.data.imu import imu
from tlcourse.data.labelled import LabelledImages, few_per_class
from tlcourse.data.mnist import mnist
from tlcourse.data.mnist5k import mnist5k
from tlcourse.data.scenes import Scenes, scenes
from tlcourse.data.status import DataRow, fetch, status
from tlcourse.data.surfaces import surfaces
from tlcourse.data.textures import on_photographs
from tlcourse.data.tiles import shuffle_tiles
from tlcourse.data.uci_har import uci_har
from tlcourse.data.usps import ccsa_split, usps
from tlcourse.data.windows import Windows, standardise

__all__ = [
    "DataRow",
    "LabelledImages",
    "Scenes",
    "Windows",
    "basic_motions",
    "ccsa_split",
    "cifar10",
    "digits",
    "dsa",
    "fetch",
    "few_per_class",
    "glyphs",
    "hapt",
    "image_folder",
    "imu",
    "load_image",
    "mnist",
    "mnist5k",
    "on_photographs",
    "random_crop_flip",
    "random_shift",
    "scenes",
    "shuffle_tiles",
    "standardise",
    "status",
    "surfaces",
    "uci_har",
    "usps",
]
