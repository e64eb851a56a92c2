"""AgentFarmSpawner in JupyterHub's own hands, against the controller's double."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import jupyterhub.spawner
import pytest
from farm_double import FarmDouble
from jupyterhub import orm
from tornado import web
from waiting import eventually

from jupyterhub_agentfarm.errors import ConflictError, FarmUnavailable
from jupyterhub_agentfarm.models import Explanation
from jupyterhub_agentfarm.records import to_json


async def spawned(user: Any) -> Any:
    """Start the user's default server; return its spawner."""
    await user.spawn()
    return user.spawner


async def messages(spawner: Any) -> list[str]:
    """Return everything a viewer who comes now is shown."""
    return [event["message"] async for event in spawner.progress()]


async def never(*_args: Any, **_kwargs: Any) -> None:
    """Answer as a controller that hangs."""
    await asyncio.Event().wait()


def reason_shown(word: str) -> str:
    """Return the reason that an error has behind the Hub: JupyterHub 5 replaces every one by "error"."""
    return word if hasattr(jupyterhub.spawner, "SpawnException") else "error"


async def test_start_returns_when_the_server_answers_with_its_identity(farm: FarmDouble, user: Any) -> None:
    """A start ends with the URL of the launched server, and polling says that it runs."""
    spawner = await spawned(user)
    (lease,) = farm.leases.values()
    assert spawner.server.url == f"{lease.url}{user.base_url}"
    assert await spawner.poll() is None
    assert (await messages(spawner))[-1] == "The server answers"
    await user.stop()
    assert farm.get(lease.id).state == "released"
    assert await spawner.poll() == 0


async def test_the_order_carries_the_hubs_environment_but_not_its_own(
    farm: FarmDouble, user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server gets its token and the Hub's address; PATH, HOME and the like of the Hub stay where they are."""
    monkeypatch.setenv("JUPYTERHUB_SINGLEUSER_APP", "something.of.the.hub")
    await user.spawn()
    (order,) = farm.orders.values()
    assert order.command[:3] == ("{python}", "-m", "jupyterhub_agentfarm.server")
    assert order.socket == "inherit"
    assert order.base_url == user.base_url
    assert orm.APIToken.find(user.db, order.environment["JUPYTERHUB_API_TOKEN"]).user is user.orm_user
    unwanted = {"PATH", "HOME", "USER", "SHELL", "JUPYTERHUB_SINGLEUSER_APP", "JUPYTERHUB_SERVICE_URL"}
    assert not unwanted & set(order.environment)


async def test_another_program_binds_its_port_itself(farm: FarmDouble, user: Any) -> None:
    """A command that is not the farm's server gets no socket to inherit, and need not know its lease."""
    farm.strangers = True
    user.spawner.cmd = ["jupyterhub-singleuser"]
    await user.spawn()
    (order,) = farm.orders.values()
    assert (order.socket, order.command) == ("port", ("jupyterhub-singleuser",))


async def test_the_lease_is_in_the_database_before_the_launch(farm: FarmDouble, user: Any) -> None:
    """A Hub that is killed at the launch finds the lease in its database, without any secret beside it."""
    seen: list[Any] = []
    farm.on_launch = lambda _: seen.append(user.db.query(orm.Spawner).filter_by(name="").one().state)
    spawner = await spawned(user)
    (lease,) = farm.leases.values()
    assert seen == [{"lease": lease.id, "epoch": 1, "url": None}]
    assert spawner.get_state() == seen[0] | {"url": lease.url}


async def test_a_refusal_says_each_nodes_reason(farm: FarmDouble, user: Any) -> None:
    """What can never be placed is refused with a fixed reason, and the user sees why, with nothing as markup."""
    farm.refusals = {"n1": "needs 9 GPUs, has <1>"}
    with pytest.raises(web.HTTPError) as caught:
        await user.spawn()
    assert (caught.value.reason, caught.value.status_code) == (reason_shown("refused"), 409)
    assert "needs 9 GPUs, has <1>" in caught.value.jupyterhub_message
    assert "has &lt;1&gt;" in caught.value.jupyterhub_html_message


async def test_a_wait_in_line_is_shown_and_not_charged_to_the_boot(farm: FarmDouble, user: Any) -> None:
    """The place in line is shown as it changes; the boot's time begins after the wait."""
    farm.in_line = 2
    user.spawner.boot_timeout = 3
    spawning = asyncio.create_task(user.spawn())
    lease = await eventually(lambda: next(iter(farm.leases.values()), None), "a lease is asked for")
    shown: list[str] = []

    async def view() -> None:
        async for event in user.spawner.progress():
            shown.append(event["message"])  # noqa: PERF401 - read while it grows

    viewer = asyncio.create_task(view())
    await eventually(lambda: any("position 2" in line for line in shown), "position 2 is shown")
    began = time.monotonic()
    farm.change(lease.id, position=1)
    await eventually(lambda: any("position 1" in line for line in shown), "position 1 is shown", timeout=2)
    await eventually(lambda: time.monotonic() - began > 3.1, "more than the boot's time is over")
    farm.change(lease.id, state="granted", position=None, node="n1", gpus=("GPU-1",), why=Explanation(0, None))
    await spawning
    await viewer
    assert any("GPU-1" in line for line in shown)
    assert "needs 1 GPU, 0 are free" in shown[1]


async def test_a_line_that_does_not_move_ends_with_a_reason(farm: FarmDouble, user: Any) -> None:
    """After queue_timeout the user is told, and the request leaves the line."""
    farm.in_line = 1
    user.spawner.queue_timeout = 0.1
    with pytest.raises(web.HTTPError, match="became free") as caught:
        await user.spawn()
    assert caught.value.reason == reason_shown("queue_timeout")
    await eventually(lambda: all(not lease.alive for lease in farm.leases.values()), "the request is withdrawn")


async def test_hours_used_up_in_the_line(farm: FarmDouble, user: Any) -> None:
    """Who is taken out of the line for the quota is told so, with the reason `quota`."""
    farm.in_line = 1
    spawning = asyncio.create_task(user.spawn())
    lease = await eventually(lambda: next(iter(farm.leases.values()), None), "a lease is asked for")
    farm.change(lease.id, state="released", end="quota", detail="user used 3.0 of 2 GPU-hours in 7 days")
    with pytest.raises(web.HTTPError) as caught:
        await spawning
    assert (caught.value.reason, caught.value.status_code) == (reason_shown("quota"), 403)
    assert caught.value.jupyterhub_message == "user used 3.0 of 2 GPU-hours in 7 days"


async def test_a_server_that_dies_shows_its_log(farm: FarmDouble, user: Any) -> None:
    """The last lines of the log of a server that ended before it answered are shown, escaped, and the lease is free."""
    farm.silent_servers = True
    farm.log_text = "Traceback: </pre><script>alert(1)</script>"
    spawning = asyncio.create_task(user.spawn())
    lease = await eventually(lambda: next(iter(farm.orders), None), "it is launched")
    await eventually(lambda: farm.leases[lease].state == "running", "it runs")
    farm.end(lease, cause="exited", code=3)
    with pytest.raises(web.HTTPError) as caught:
        await spawning
    assert caught.value.reason == reason_shown("server_died")
    assert "exited with status 3" in caught.value.jupyterhub_message
    assert "&lt;/pre&gt;&lt;script&gt;" in caught.value.jupyterhub_html_message
    assert "<script>" not in caught.value.jupyterhub_html_message


async def test_a_strangers_answer_is_not_the_servers(farm: FarmDouble, user: Any) -> None:
    """An HTTP server without the lease's identity is never routed to."""
    farm.strangers = True
    user.spawner.boot_timeout = 0.5
    with pytest.raises(web.HTTPError, match="did not answer") as caught:
        await user.spawn()
    assert caught.value.reason == reason_shown("boot_timeout")
    await eventually(lambda: all(not lease.alive for lease in farm.leases.values()), "the lease is free again")


async def test_a_cancelled_start_ends_at_once_and_leaves_no_lease(farm: FarmDouble, user: Any) -> None:
    """A start that is cancelled while the controller hangs does not wait for it; the lease is given back."""
    farm.answering.clear()
    user.spawner.server = None
    starting = asyncio.create_task(user.spawner.start())
    lease = await eventually(lambda: next(iter(farm.leases.values()), None), "the lease is made")
    starting.cancel()
    await asyncio.wait({starting}, timeout=5)
    assert starting.cancelled()
    farm.answering.set()
    await eventually(lambda: not farm.get(lease.id).alive, "the lease is given back")


async def test_a_cancelled_boot_ends_at_once_and_leaves_no_lease(farm: FarmDouble, user: Any) -> None:
    """A start that is cancelled while its server boots does not wait for it, and the server is stopped."""
    farm.silent_servers = True
    user.spawner.boot_timeout = 60
    spawning = asyncio.create_task(user.spawn())
    lease = await eventually(lambda: next(iter(farm.orders), None), "it is launched")
    spawning.cancel()
    await asyncio.wait({spawning}, timeout=5)
    assert spawning.cancelled()
    await eventually(lambda: not farm.get(lease).alive, "the lease is given back")


async def test_the_hub_knows_at_once_that_a_server_ended(farm: FarmDouble, user: Any) -> None:
    """With polling every hour, the Hub is told long before that, with what a shell would say."""
    spawner = await spawned(user)
    told: list[int | None] = []

    async def stopped() -> None:
        told.append(await spawner.poll())

    spawner.add_poll_callback(stopped)
    farm.end(spawner.lease_id, cause="oom", signal=9)
    await eventually(lambda: told, "the Hub is told")
    assert told == [137]


async def test_who_asks_while_the_hub_notices_an_end_waits(farm: FarmDouble, user: Any) -> None:
    """A deletion in the middle of the Hub's noticing goes on when that is done: then the server is stopped."""
    spawner = await spawned(user)
    began, go_on = asyncio.Event(), asyncio.Event()

    async def stopped() -> None:
        began.set()
        await go_on.wait()
        await user.stop()

    spawner.add_poll_callback(stopped)
    farm.end(spawner.lease_id, cause="exited", code=3)
    async with asyncio.timeout(5):
        await began.wait()
    deletion = asyncio.create_task(spawner.poll_and_notify())
    await asyncio.wait({deletion}, timeout=0.1)
    assert (deletion.done(), spawner.active) == (False, True)
    go_on.set()
    assert (await deletion, spawner.active) == (3, False)


async def test_a_stop_is_not_taken_for_an_end(farm: FarmDouble, user: Any) -> None:
    """When the Hub stops a server itself, it is not told that the server ended."""
    spawner = await spawned(user)
    told: list[str] = []
    spawner.add_poll_callback(told.append, "ended")
    held = farm.get(spawner.lease_id)
    await user.stop()
    farm.put(replace(held, id="e" * 32, server_name="later"))
    await eventually(lambda: spawner.watch.get("e" * 32), "the events up to here were heard")
    await asyncio.gather(*spawner.watch.tasks.named("telling"))
    assert told == []


async def test_an_end_that_nobody_heard_of_is_found_out(farm: FarmDouble, user: Any) -> None:
    """A lease that ended while the stream was lost is not in the next snapshot: it is asked for."""
    spawner = await spawned(user)
    lease = farm.get(spawner.lease_id)
    assert lease.server is not None
    await eventually(lambda: spawner.watch.connected, "the stream is open")
    farm.leases[lease.id] = replace(lease, state="released")
    assert await spawner.poll() is None
    farm.hang_up()

    async def ended() -> bool:
        return await spawner.poll() == 1

    await eventually(ended, "the end is found out")


async def test_an_end_is_found_out_by_a_controller_that_fails_at_first(
    farm: FarmDouble, user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question for a lease that is in no snapshot is asked until it is answered, whatever fails, and then ends."""
    spawner = await spawned(user)
    lease, watch = farm.get(spawner.lease_id), spawner.watch
    await eventually(lambda: watch.connected, "the stream is open")
    failures = [FarmUnavailable("away"), ConflictError("a fault"), FarmUnavailable("away")]
    ask = watch.client.lease

    async def fails_at_first(lease_id: str) -> Any:
        if failures:
            raise failures.pop()
        return await ask(lease_id)

    monkeypatch.setattr(watch.client, "lease", fails_at_first)
    watch.patience_seconds = 0
    farm.leases[lease.id] = replace(lease, state="released")
    farm.hang_up()

    async def ended() -> bool:
        return await spawner.poll() == 1

    await eventually(ended, "the end is found out")
    assert failures == []
    await eventually(lambda: not watch.tasks.named("asking"), "nobody asks any more")


async def test_a_lease_that_the_controller_lost_is_an_ended_server(farm: FarmDouble, user: Any) -> None:
    """A lease that the controller knows nothing of is status 1, not "running for ever"."""
    spawner = await spawned(user)
    await eventually(lambda: spawner.watch.connected, "the stream is open")
    farm.leases.clear()
    farm.hang_up()

    async def ended() -> bool:
        return await spawner.poll() == 1

    await eventually(ended, "the loss is found out")


async def test_polling_survives_the_controller(farm: FarmDouble, user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the controller is away, or hangs, poll neither raises nor hangs nor ends the server."""
    spawner = await spawned(user)
    farm.down = True
    farm.hang_up()
    await eventually(lambda: not spawner.watch.connected, "the stream is lost")
    assert await spawner.poll() is None
    monkeypatch.setattr(spawner.watch.client, "_request", never)
    async with asyncio.timeout(5):
        assert await spawner.poll() is None


async def test_a_stop_is_done_when_the_controller_is_back(farm: FarmDouble, user: Any) -> None:
    """A stop while the controller is away is bounded, and is carried out later."""
    spawner = await spawned(user)
    lease = spawner.lease_id
    spawner.stop_wait = 0.1
    farm.down = True
    await user.stop()
    assert farm.get(lease).state == "running"
    farm.down = False
    await eventually(lambda: farm.get(lease).state == "released", "it is stopped after all")


async def test_a_hurried_stop_is_not_held_up_by_a_patient_one(
    farm: FarmDouble, user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release with a smaller grace is sent while the first is under way; one with a larger grace joins it."""
    spawner = await spawned(user)
    watch, lease, go_on = spawner.watch, spawner.lease_id, asyncio.Event()
    graces: list[float] = []
    release = watch.client.release

    async def slow(lease_id: str, grace_seconds: float) -> Any:
        graces.append(grace_seconds)
        await go_on.wait()
        return await release(lease_id, grace_seconds)

    monkeypatch.setattr(watch.client, "release", slow)
    patient = watch.release(lease, 10)
    await eventually(lambda: graces == [10], "the first is under way")
    hurried = watch.release(lease, 0)
    await eventually(lambda: graces == [10, 0], "the second is under way")
    assert watch.release(lease, 5) is hurried
    go_on.set()
    await asyncio.gather(patient, hurried)
    assert farm.get(lease).state == "released"
    assert graces == [10, 0]


async def test_a_start_waits_for_a_controller_that_comes_up(farm: FarmDouble, user: Any) -> None:
    """A start in the first seconds of a Hub, before the controller listens, succeeds."""
    farm.down = True
    spawning = asyncio.create_task(user.spawn())
    await eventually(lambda: user.spawner.starting, "the start is under way")
    farm.down = False
    await spawning
    assert len(farm.leases) == 1


async def test_an_older_lease_of_the_same_server_goes_first(farm: FarmDouble, user: Any) -> None:
    """A running server that an earlier Hub left behind is not taken for the new one: its token is gone."""
    await user.spawn()
    old = user.spawner.lease_id
    place = farm.place
    farm.place = lambda request: farm.get(old) if farm.get(old).alive else place(request)  # type: ignore[method-assign]
    user.spawner.lease_id = None
    await user.spawner.start()
    assert farm.get(old).state == "released"
    assert user.spawner.lease_id != old


# ---- a Hub that comes back ---------------------------------------------------------------------------------------


async def restarted(hub: Any, user: Any) -> Any:
    """Return the user's spawner as a Hub that was killed finds it: from the database, in a new watch."""
    await hub.users.settings.pop("agentfarm_watch").aclose()
    user.spawner.stop_polling()
    user.spawners.pop("")
    spawner = user.spawner
    spawner._check_pending = True
    return spawner


async def test_a_restarted_hub_finds_its_server(farm: FarmDouble, hub: Any, user: Any) -> None:
    """A running server is found again with its URL, also when the database has an older one."""
    url = (await spawned(user)).server.url
    spawner = await restarted(hub, user)
    assert await spawner.poll() is None
    assert await spawner.get_url() == url
    farm.change(spawner.lease_id, url="http://127.0.0.1:40404")
    await eventually(lambda: spawner.watch.get(spawner.lease_id).url.endswith("40404"), "the change is known")
    assert await spawner.get_url() == f"http://127.0.0.1:40404{user.base_url}"


async def test_a_server_killed_with_its_hub_at_the_launch_is_found(farm: FarmDouble, hub: Any, user: Any) -> None:
    """Where the URL was not written down yet, the restarted Hub waits for the controller to tell it."""
    url = (await spawned(user)).server.url
    user.spawner.lease_url = None
    user.spawner.keep_state()
    spawner = await restarted(hub, user)
    assert await spawner.get_url() == url


async def test_a_restarted_hub_learns_of_an_end(farm: FarmDouble, hub: Any, user: Any) -> None:
    """A server that ended while the Hub was down has its exit status in the first poll."""
    lease = (await spawned(user)).lease_id
    farm.end(lease, cause="exited", code=7)
    spawner = await restarted(hub, user)
    assert await spawner.poll() == 7


async def test_a_hub_killed_before_the_launch_gives_the_lease_back(farm: FarmDouble, hub: Any, user: Any) -> None:
    """A lease that was granted and never launched is of no use to anybody: it is released."""
    lease = (await spawned(user)).lease_id
    farm.change(lease, state="granted", server=None, url=None)
    spawner = await restarted(hub, user)
    assert await spawner.poll() == 1
    await eventually(lambda: farm.get(lease).state == "released", "the lease is released")


async def test_without_the_controller_a_restarted_hub_keeps_its_servers(
    farm: FarmDouble, hub: Any, user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is not known what became of a server, it is taken to run, and the Hub's start is not held up."""
    monkeypatch.setattr("jupyterhub_agentfarm.spawner.spawner._CHECK_SECONDS", 0.1)
    await user.spawn()
    farm.down = True
    farm.hang_up()
    spawner = await restarted(hub, user)
    async with asyncio.timeout(5):
        assert await spawner.poll() is None


async def test_after_a_restart_a_stop_revokes_the_token(farm: FarmDouble, hub: Any, user: Any) -> None:
    """The token of a stopped server is worthless, also when the Hub was restarted since it was made."""
    token = (await spawned(user)).api_token
    spawner = await restarted(hub, user)
    assert spawner.api_token == ""
    await user.stop()
    assert orm.APIToken.find(user.db, token) is None


async def test_a_users_other_tokens_are_left_alone(farm: FarmDouble, hub: Any, user: Any) -> None:
    """Only this server's own token is revoked."""
    await user.spawn()
    await restarted(hub, user)
    other = orm.APIToken.find(user.db, user.new_api_token(note="mine"))
    await user.stop()
    assert user.db.get(orm.APIToken, other.id) is other


async def test_the_token_of_a_start_that_left_no_trace_is_revoked(farm: FarmDouble, hub: Any, user: Any) -> None:
    """A Hub that was killed before it wrote down the lease has made a token: the next one revokes it."""
    token = (await spawned(user)).api_token
    user.spawner.orm_spawner.state = {}
    user.db.commit()
    await restarted(hub, user)
    await user.stop()
    assert orm.APIToken.find(user.db, token) is None


async def test_leases_that_no_server_holds_are_released(farm: FarmDouble, user: Any) -> None:
    """What a killed Hub had asked for and not written down is given back; what a server holds is kept."""
    spawner = await spawned(user)
    held = farm.get(spawner.lease_id)
    farm.leases["f" * 32] = replace(held, id="f" * 32, server_name="lost", created_at=0.0)
    farm.leases[held.id] = replace(held, created_at=0.0)
    await eventually(lambda: spawner.watch.connected, "the stream is open")
    farm.hang_up()
    await eventually(lambda: farm.leases["f" * 32].state == "released", "the orphan is released")
    assert farm.get(held.id).state == "running"


# ---- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"gpu": 1}, "gpu"),
        ({"gpus": "1"}, "gpus"),
        ({"gpus": 9}, "gpus"),
        ({"priority": 5}, "priority"),
        ({"node": "a b; rm -rf /"}, "node"),
        ({"labels": {"disk": 1}}, "labels.disk"),
    ],
)
async def test_bad_options_are_refused_by_name(
    farm: FarmDouble, user: Any, options: dict[str, Any], named: str
) -> None:
    """Whatever is wrong with user_options is answered 400 with the field's name, before anything is asked for."""
    with pytest.raises(web.HTTPError) as caught:
        await user.spawn(options=options)
    assert caught.value.status_code == 400
    assert named in caught.value.jupyterhub_message
    assert not farm.leases


async def test_a_sites_own_hook_does_not_open_a_way_around(farm: FarmDouble, user: Any) -> None:
    """With another apply_user_options the start still refuses what is above the limits."""
    user.spawner.apply_user_options = lambda spawner, options: None
    with pytest.raises(web.HTTPError) as caught:
        await user.spawn(options={"gpus": 9})
    assert caught.value.status_code == 400
    assert not farm.leases


async def test_options_reach_the_controller(farm: FarmDouble, user: Any) -> None:
    """What was asked for, the owner's groups and the guarantees are in the placement request."""
    user.spawner.mem_guarantee = "1G"
    await user.spawn(options={"gpus": 2, "labels": {"disk": "nvme"}})
    (lease,) = farm.leases.values()
    assert (lease.request.options.gpus, lease.request.memory_bytes) == (2, 2**30)
    assert to_json(lease.request.options)["labels"] == {"disk": "nvme"}


async def test_a_name_that_must_be_quoted_is_asked_for_as_the_server_has_it(farm: FarmDouble, hub: Any) -> None:
    """A server whose base URL has quoted characters, which a client might unquote, is found ready."""
    name = "a$(b);'c@d.e"
    hub.db.add(orm.User(name=name))
    hub.db.commit()
    user = hub.users[name]
    await user.spawn()
    # The Hub's own probe comes after ours, and does unquote it.
    assert farm.paths[0] == f"{user.base_url}api"
    assert "%24" in farm.paths[0]
