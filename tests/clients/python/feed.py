"""Prints what `httpx-sse` hears at a URL: feed.py URL. Called by tests/whole/feeds.rs; node/feed.js is its twin.

It does not come back by itself; what it needs for that, position and delay, it does tell.
"""

import json
import sys
import time

import httpx
from httpx_sse import connect_sse

position, retry_ms = "", 100
# Nothing for a while is no fault of a stream; httpx gives up after 5 s unless told otherwise.
with httpx.Client(timeout=None, trust_env=False) as client:
    while True:
        headers = {"Last-Event-ID": position} if position else {}
        try:
            with connect_sse(client, "GET", sys.argv[1], headers=headers) as source:
                source.response.raise_for_status()
                for event in source.iter_sse():
                    position = event.id or position
                    retry_ms = retry_ms if event.retry is None else event.retry
                    if event.event == "position":
                        print("position", event.id)
                    elif event.event == "subscribed":
                        print("subscribed", event.data)
                    elif event.event == "message" and event.data:
                        message = json.loads(event.data)
                        print("got", message["channel"], message["data"]["n"], event.id)
        except httpx.TransportError:
            pass  # not reached, or broken off
        time.sleep(retry_ms / 1000)
