r"""Train on a Ray cluster as a job: send the code, follow the log, end with the job's own status.

    python examples/submit_job.py --address http://127.0.0.1:8265 -- \
        python train.py /shared/data/simple_spread-medium --out /shared/runs/om2p

Run it from the repository's root; needs pip install '.[cluster]' here and on the cluster. What the
job takes along stands in deploy/runtime_env.yaml: code, no data. Dataset and output are in folders
that the cluster shares; a dataset may be a URI. `ray job submit` does the same from a shell.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from pathlib import Path

import yaml
from ray.job_submission import JobStatus, JobSubmissionClient


async def follow(client: JobSubmissionClient, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", default="http://127.0.0.1:8265", help="of the dashboard")
    parser.add_argument("--runtime-env", default="deploy/runtime_env.yaml")
    parser.add_argument("command", nargs="+", help="what the cluster runs, in examples/")
    options = parser.parse_args()

    client = JobSubmissionClient(options.address)
    job = client.submit_job(
        entrypoint=shlex.join(options.command),
        runtime_env=yaml.safe_load(Path(options.runtime_env).read_text(encoding="utf-8")),
    )
    print("job:", job, flush=True)
    asyncio.run(follow(client, job))
    status = client.get_job_status(job)
    print("status:", status.value)
    if status != JobStatus.SUCCEEDED:
        sys.exit(f"{job} did not succeed: {client.get_job_info(job).message}")


if __name__ == "__main__":
    main()
