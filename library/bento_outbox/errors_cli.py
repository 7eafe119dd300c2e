"""`bento-outbox errors`: what the on-call engineer does about events that failed, without SQL."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import click

from bento_outbox.cli_options import database_url, on_database, schema_name, table_name
from bento_outbox.errors import OutboxError
from bento_outbox.failed_events import FailedEvent, FailedEvents, Selection
from bento_outbox.failed_filter import Filter

_R = TypeVar("_R")
_Command = Callable[..., None]
_SHOWN_CHARACTERS = 100


class _Moment(click.ParamType):  # type: ignore[type-arg] # generic from click 8.4 on
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """ISO 8601; what names no time zone is UTC."""
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time: write it as in 2026-01-31T03:00 (UTC) or 2026-01-31T03:00+01:00")
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_LIMIT = click.option("--limit", type=click.IntRange(min=1), help="At most so many, the oldest first.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Only say what would be done.")
_OPTIONS = (
    click.option("--tenant", "tenant_id", required=True, help="Id of the tenant."),
    click.option("--type", "type", help="Events of this type only."),
    click.option("--aggregate", "aggregate_id", help="Events of this aggregate only."),
    click.option("--error", help="Events whose error contains this text, whatever its case."),
    click.option("--since", type=_Moment(), help="Events created at this time or later; UTC unless it says otherwise."),
    click.option("--until", type=_Moment(), help="Events created before this time."),
    click.option("--failed-since", type=_Moment(), help="Events that failed for good at this time or later."),
    click.option("--failed-until", type=_Moment(), help="Events that failed for good before this time."),
    click.option("--id", "ids", type=click.UUID, multiple=True, help="This event only; may be repeated."),
    database_url,
    table_name,
    schema_name,
)


def _filtered(command: _Command) -> _Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group("errors")
def errors_group() -> None:
    """Events that failed for good: list them, deliver them after all, or give them up."""


@errors_group.command("list")
@_filtered
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many, the oldest first."
)
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def list_errors(limit: int, output: str, **options: Any) -> None:
    """Show the events with their errors. JSON has the whole error, the table its beginning."""
    wanted = _filter(options)
    events = _on_events(options, lambda failed: failed.find(wanted, limit=limit))
    if output == "json":
        click.echo(json.dumps([asdict(event) for event in events], default=_as_text, indent=2, ensure_ascii=False))
    elif not events:
        click.echo(_none(options["tenant_id"]))
    else:
        click.echo(_table(events))
        if len(events) == limit:
            click.echo(f"the oldest {limit} are shown: see more with --limit")


@errors_group.command()
@_filtered
@_LIMIT
@_DRY_RUN
def requeue(limit: int | None, dry_run: bool, **options: Any) -> None:
    """Let the projector try the events again, with all attempts. They carry the property `requeued_at`."""
    chosen, tenant = _select(options, limit), options["tenant_id"]
    if not chosen.ids:
        click.echo(_none(tenant))
        return
    if dry_run:
        click.echo(f"{_count(chosen)} of tenant {tenant} would be requeued{_by_type(chosen)}")
        return
    done = _on_events(options, lambda failed: failed.requeue(tenant, chosen.ids))
    click.echo(f"{_events(done)} of tenant {tenant} requeued{_left(len(chosen.ids) - done)}")


@errors_group.command()
@_filtered
@_LIMIT
@_DRY_RUN
@click.option("--yes", is_flag=True, help="Do not ask.")
def discard(limit: int | None, dry_run: bool, yes: bool, **options: Any) -> None:
    """Delete the events: they are never delivered. At least one filter is needed, as --failed-until for all so far."""
    if _filter(options).takes_all:
        raise click.UsageError(
            "name the events that are meant, since a discarded event is gone: "
            "--type, --aggregate, --error, --id, or a time"
        )
    chosen, tenant = _select(options, limit), options["tenant_id"]
    if not chosen.ids:
        click.echo(_none(tenant))
        return
    if dry_run:
        click.echo(f"{_count(chosen)} of tenant {tenant} would be discarded{_by_type(chosen)}")
        return
    click.echo(f"{_count(chosen)} of tenant {tenant} will be deleted and never delivered{_by_type(chosen)}", err=True)
    if not yes:
        click.confirm("Discard them?", abort=True, err=True)
    done = _on_events(options, lambda failed: failed.discard(tenant, chosen.ids))
    click.echo(f"{_events(done)} of tenant {tenant} discarded{_left(len(chosen.ids) - done)}")


def _select(options: dict[str, Any], limit: int | None) -> Selection:
    wanted = _filter(options)
    return _on_events(options, lambda failed: failed.select(wanted, limit=limit))


def _filter(options: dict[str, Any]) -> Filter:
    names = ("tenant_id", "type", "aggregate_id", "error", "since", "until", "failed_since", "failed_until")
    try:
        return Filter(**{name: options[name] for name in names}, ids=options["ids"] or None)
    except OutboxError as error:
        raise click.UsageError(str(error)) from error


def _on_events(options: dict[str, Any], action: Callable[[FailedEvents], Awaitable[_R]]) -> _R:
    return on_database(
        options["database_url"],
        lambda engine: action(FailedEvents(engine, table=options["table"], schema=options["schema"])),
    )


def _as_text(value: UUID | datetime) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _table(events: Sequence[FailedEvent]) -> str:
    lines: list[tuple[str, ...]] = [("ID", "CREATED", "FAILED", "TYPE", "AGGREGATE", "ATTEMPTS", "ERROR")]
    for event in events:
        times = [_second(moment) for moment in (event.created_at, event.failed_at)]
        texts = (
            _one_line(event.type),
            _one_line(event.aggregate_id),
            str(event.attempts),
            _one_line(event.error or ""),
        )
        lines.append((str(event.id), *times, *texts))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _second(moment: datetime) -> str:
    # The driver gives `infinity`, which a table may hold, as a moment without a zone.
    utc = moment.astimezone(UTC) if moment.tzinfo else moment
    return utc.strftime("%Y-%m-%dT%H:%M:%SZ")


def _one_line(text: str) -> str:
    """Nothing that would break the table, or the terminal: these texts come from elsewhere."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return plain if len(plain) <= _SHOWN_CHARACTERS else plain[: _SHOWN_CHARACTERS - 1] + "…"


def _none(tenant: str) -> str:
    return f"no failed events of tenant {tenant} match"


def _events(count: int) -> str:
    return f"{count} event{'' if count == 1 else 's'}"


def _count(chosen: Selection) -> str:
    return _events(len(chosen.ids))


def _by_type(chosen: Selection) -> str:
    counts = chosen.types.most_common()
    return ": " + ", ".join(f"{count} {_one_line(name)}" for name, count in counts) if counts else ""


def _left(count: int) -> str:
    return f"; {_events(count)} had changed meanwhile and were left alone" if count else ""
