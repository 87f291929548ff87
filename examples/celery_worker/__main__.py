"""`python -m examples.celery_worker alice LIS`: ask for the task, as a web application would."""

from __future__ import annotations

import sys

from examples.celery_worker.tasks import find_flights

if __name__ == "__main__":
    user_id, place = sys.argv[1:]
    print(find_flights.delay(user_id, place).id)
