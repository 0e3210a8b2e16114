"""``python -m tlcourse``, and ``accelerate launch -m tlcourse run NAME``."""

from tlcourse.cli import main

main()
