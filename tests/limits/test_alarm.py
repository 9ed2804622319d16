"""Alarms: they ring once, from anywhere."""

from __future__ import annotations

import asyncio
import threading

import pytest

from lc_service.limits.alarm import TaskAlarm, ThreadAlarm


def test_one_rings_once_whoever_rings():
    alarm = ThreadAlarm()
    assert alarm.wait(0) is False
    alarm.set()
    alarm.set()
    assert alarm.is_set()
    assert alarm.wait(0)
    assert alarm.wait()
    with pytest.raises(NotImplementedError):
        alarm.clear()


async def test_a_tasks_alarm_rings_from_another_thread():
    alarm = TaskAlarm()
    threading.Thread(target=lambda: (alarm.set(), alarm.set())).start()
    await asyncio.wait_for(alarm.future, 5)


def test_a_loop_that_is_gone_does_no_harm():
    async def make() -> TaskAlarm:
        return TaskAlarm()

    alarm = asyncio.run(make())
    alarm.set()
    assert not alarm.future.done()


async def test_a_tasks_alarm_rings_at_once_in_its_own_thread_and_again_when_renewed():
    alarm = TaskAlarm()
    alarm.set()
    alarm.set()
    assert alarm.future.done()
    alarm.renew()
    assert not alarm.future.done()
    unrung = alarm.future
    alarm.renew()
    assert alarm.future is unrung
    alarm.set()
    await asyncio.wait_for(alarm.future, 5)


def test_a_loop_that_is_gone_does_no_harm_in_its_own_thread():
    async def make() -> TaskAlarm:
        alarm = TaskAlarm()
        alarm.future.add_done_callback(print)  # to be called by the loop
        return alarm

    alarm = asyncio.run(make())
    alarm.set()
    assert not alarm.future.done()
