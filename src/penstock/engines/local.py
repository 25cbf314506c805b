"""Lanes on this machine: one in this process, or several in processes of their own."""

from __future__ import annotations

import dataclasses

from penstock.engines.base import Plan
from penstock.engines.lanes import run_lanes
from penstock.engines.work import Job, Summary, Watch, do_work

__all__ = ["LocalEngine"]


class LocalEngine:
    """One lane here; several as child processes, which open the list for themselves: that takes one that lies in files."""

    def run(self, job: Job, plan: Plan, watch: Watch) -> Summary:
        """Do all the rows of the plan."""
        if job.setup.lanes > 1 and plan.source.spec is not None and plan.retry is None:
            return run_lanes(job, plan, watch)
        job = dataclasses.replace(job, setup=dataclasses.replace(job.setup, lanes=1))
        return do_work(job, plan.placed(), watch, committed=plan.committed, check_digests=plan.check_digests)
