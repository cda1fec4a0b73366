# SPDX-License-Identifier: Apache-2.0
"""The messages are what their sources say, stand beside a client's, and nobody needs them who does
not speak etcd.
"""

from __future__ import annotations

import subprocess
import sys

import etcd_generate
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message import Message

from kvcore.etcd import messages as m

FOREIGN = """
import sys
import kvcore
import kvcore.cli
print(sorted(name for name in sys.modules if name.split(".")[0] in {"grpc", "google"}
             or name.startswith("kvcore.etcd")))
"""

WITHOUT_PROTOBUF = """
import sys
sys.modules["google.protobuf"] = None
try:
    import kvcore.etcd
except ImportError as error:
    print(error)
"""


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize("path", etcd_generate.texts(), ids=lambda path: path.name)
def test_what_is_checked_in_is_what_the_sources_give(path: etcd_generate.Path) -> None:
    """python tests/etcd_generate.py makes it so."""
    assert path.read_text() == etcd_generate.texts()[path]


def test_the_stub_names_what_there_is() -> None:
    text = etcd_generate.stub(etcd_generate.descriptors())
    classes = {name: value for name, value in vars(m).items()
               if isinstance(value, type) and issubclass(value, Message)}
    assert len(classes) > 40
    for name, kind in classes.items():
        body = text.split(f"class {name}(Message):\n")[1].split("\nclass ")[0]
        for field in kind.DESCRIPTOR.fields:
            assert f" {field.name}: " in body or f"def {field.name}(" in body
        for enum in kind.DESCRIPTOR.enum_types:
            assert all(getattr(kind, value.name) == value.number for value in enum.values)


def test_bytes_on_the_wire() -> None:
    """Numbers that are easy to get wrong, spelled out once."""
    kv = m.KeyValue(key=b"k", value=b"v", create_revision=1, mod_revision=2, version=3, lease=4)
    assert kv.SerializeToString() == b"\x0a\x01k\x10\x01\x18\x02\x20\x03\x2a\x01v\x30\x04"
    assert m.Compare(range_end=b"z").SerializeToString() == b"\x82\x04\x01z"
    assert m.LeaseGrantRequest(TTL=5, ID=7).SerializeToString() == b"\x08\x05\x10\x07"
    event = m.Event(type=m.Event.DELETE)
    assert m.WatchResponse(events=[event]).SerializeToString() == b"\x5a\x02\x08\x01"
    assert m.METHODS["/etcdserverpb.Watch/Watch"] == (m.WatchRequest, m.WatchResponse, True, True)


def test_an_etcd_client_may_be_imported_beside() -> None:
    """Its modules put the same names into protobuf's own pool."""
    pool = descriptor_pool.Default()
    for file in etcd_generate.descriptors():
        with pytest.raises(KeyError):
            pool.FindFileByName(file.name)


def test_kvcore_itself_needs_neither_protobuf_nor_grpc() -> None:
    assert run(FOREIGN) == "[]"


def test_without_protobuf_it_says_what_is_missing() -> None:
    assert run(WITHOUT_PROTOBUF) == "kvcore.etcd needs protobuf: pip install 'kvcore[server]'"
