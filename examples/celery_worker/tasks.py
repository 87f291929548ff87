"""The task. Start workers with `celery -A examples.celery_worker.tasks worker`.

A worker process serves nobody: what it emits reaches the user's sockets on every server process that has the same
Redis and namespace.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import worker_process_shutdown

from websocket_core.errors import AppendFailed
from websocket_core.worker import SyncWorker

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")

app = Celery("celery_worker", broker=os.environ.get("BROKER_URL", REDIS_URL))
app.conf.update(task_ignore_result=True, task_acks_late=True, broker_connection_retry_on_startup=True)

worker = SyncWorker(REDIS_URL, namespace=os.environ.get("NAMESPACE", "unified-websocket"))
"""Made here once, and used first by a process that Celery has forked: it starts what it needs there."""


@worker_process_shutdown.connect
def close(**_: object) -> None:
    """Celery's processes end without running what Python runs at an exit."""
    worker.close()


class Unavailable(Exception):
    """The search failed, and is worth another try."""


@app.task(bind=True, autoretry_for=(Unavailable, AppendFailed), retry_backoff=0.1, retry_jitter=False, max_retries=3)
def find_flights(task: Any, user_id: str, place: str) -> None:
    """Tell a run as it goes. A task that is tried again keeps its id, so its events keep theirs: what was told before
    is in the log once."""
    run_id = str(task.request.id)
    emitter = worker.emitter(user_id, run_id=run_id)
    call = {"tool_call_id": "search"}
    emitter.notify_agent_started("flights", event_id=f"{run_id}.started")
    emitter.notify_agent_thinking(f"Looking for flights to {place}", event_id=f"{run_id}.thinking")
    emitter.notify_tool_executing("search", event_id=f"{run_id}.executing", **call, arguments={"place": place})
    hits = search(place, attempt=task.request.retries)
    emitter.notify_tool_completed(
        "search", {"hits": hits}, event_id=f"{run_id}.completed", **call, status="success", duration=0.1
    )
    answer = {"answer": f"{hits} flights"}
    emitter.notify_agent_completed(answer, event_id=f"{run_id}.ended", agent="flights", status="success", duration=0.1)


def search(place: str, *, attempt: int) -> int:
    """Fails at the first attempt, as the network does."""
    if attempt == 0:
        raise Unavailable(place)
    return 3
