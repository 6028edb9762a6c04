"""The pages for people: the start page, and one for each job, to which tracking urls lead."""

from __future__ import annotations

import json
from html import escape

from dagster_kumo.local.folder import API_KEY
from dagster_kumo.local.service.jobs import Job
from dagster_kumo.local.service.service import Service

_NOTE = (
    "This is the local stand-in of dagster-kumo, <b>not Kumo</b>. Its predictions come from a small "
    "model fitted on this machine."
)


def home_page(service: Service, base: str) -> str:
    """The start page: what this server is, and its jobs."""
    jobs = service.store.all()[::-1]
    rows = "".join(
        f'<tr><td><a href="/jobs/{escape(job.id)}">{escape(job.id)}</a></td>'
        f"<td>{escape(job.status)}</td><td>{job.created_at:%Y-%m-%d %H:%M:%S}</td>"
        f"<td>{escape(', '.join(f'{k}={v}' for k, v in job.tags.items()))}</td></tr>"
        for job in jobs[:200]
    )
    return _page(
        "A stand-in for Kumo",
        f"<p>{_NOTE}</p><p>API: <code>{escape(base)}/api</code>, key <code>{API_KEY}</code>.<br>"
        f"Exports: <code>{escape(str(service.folder.exports))}</code></p>"
        f"<table><tr><th>Job</th><th>Status</th><th>Created (UTC)</th><th>Tags</th></tr>{rows}"
        "</table>",
    )


def job_page(job: Job) -> str:
    """One job."""
    events = "".join(
        f"<tr><td>{escape(event['stage_name'])}</td><td>{escape(event['last_updated_at'])}</td></tr>"
        for event in job.event_log
    )
    errors = "".join(
        f"<p><b>{escape(error['title'])}</b>: {escape(error['message'])}</p>"
        for error in job.errors
    )
    config = escape(json.dumps(job.config, indent=2))
    return _page(
        f"{job.id}: {job.status}",
        f"<p>{_NOTE}</p>{errors}<table><tr><th>Stage</th><th>Since</th></tr>{events}</table>"
        f"<h2>Request</h2><pre>{config}</pre>"
        f"<h2>Result</h2><pre>{escape(json.dumps(job.result, indent=2))}</pre>"
        '<p><a href="/">All jobs</a></p>',
    )


def missing_page(id: str) -> str:
    """No such job."""
    return _page("No such job", f"<p>{_NOTE}</p><p>There is no job {escape(id)} here.</p>")


def _page(title: str, body: str) -> str:
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
        "td,th{padding:.15em 1em .15em 0;text-align:left}pre{background:#f4f4f4;padding:1em}"
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{style}</style><h1>{escape(title)}</h1>{body}"
    )
