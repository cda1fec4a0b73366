# SPDX-License-Identifier: Apache-2.0
"""etcd's RPC over a store: its messages, and what a store answers to them.

    messages    what goes over the wire, made from kv.proto and rpc.proto
    translate   a request as operations of kvcore; a result or an error as etcd has it
    service     each call of KV and Lease, and HashKV, on a store
    watch_stream  one Watch call: many watches, one stream of answers

No module here knows gRPC: a server lends them its transport, a test calls them.
Needs protobuf: `pip install 'kvcore[server]'`.  May not know: the command line.
"""

from importlib import import_module

try:
    import_module("google.protobuf")
except ImportError as error:
    raise ImportError("kvcore.etcd needs protobuf: pip install 'kvcore[server]'") from error
