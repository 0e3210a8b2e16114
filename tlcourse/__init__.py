"""Transfer learning, one small tested method at a time: the package behind the course.

Nothing is imported here, so that ``import tlcourse`` is quick; a chapter imports what it shows, for
instance ``from tlcourse.distillation import distillation_loss``.
"""

__version__ = "0.1.0"
