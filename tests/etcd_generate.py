# SPDX-License-Identifier: Apache-2.0
"""Makes src/kvcore/etcd/messages.py and its stub of kv.proto and rpc.proto.

    python tests/etcd_generate.py        # writes both

    *.proto ── grpc_tools.protoc ──► descriptors ──► text of the module, text of the stub

protoc's own Python text names its version and demands that of the runtime, and its stubs need
those of protobuf. This text holds the same descriptors and changes only when the .proto does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc

SOURCE = Path(__file__).parents[1] / "src" / "kvcore" / "etcd"
PROTOS = ("kv.proto", "rpc.proto")

MODULE = '''# SPDX-License-Identifier: Apache-2.0
"""Messages and methods of etcd's RPC; made from kv.proto and rpc.proto, do not edit.

    python tests/etcd_generate.py        # writes this file and messages.pyi

    METHODS["/etcdserverpb.KV/Range"]  ->  Method(RangeRequest, RangeResponse, False, False)

The descriptors are in a pool of their own: a program may import an etcd client's modules, whose
messages have the same names, beside this one.
Invariants: equal to what protoc makes of the sources.  Thread safety: that of protobuf's messages.
May not know: gRPC, kvcore.
"""

from typing import NamedTuple

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_pool = DescriptorPool()


def _message(name: str) -> type:
    return GetMessageClass(_pool.FindMessageTypeByName(name))


'''

STUB = '''# SPDX-License-Identifier: Apache-2.0
# Made from kv.proto and rpc.proto by tests/etcd_generate.py; do not edit.
from collections.abc import Iterable, Iterator
from typing import ClassVar, NamedTuple, Protocol, TypeVar

T = TypeVar("T")
M = TypeVar("M", bound="Message")

class Repeated(Protocol[T]):
    def __getitem__(self, i: int) -> T: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[T]: ...
    def append(self, item: T) -> None: ...
    def extend(self, items: Iterable[T]) -> None: ...

class Message:
    @classmethod
    def FromString(cls: type[M], data: bytes) -> M: ...
    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...
    def ByteSize(self) -> int: ...
    def CopyFrom(self: M, other: M) -> None: ...
    def Clear(self) -> None: ...
    def ClearField(self, name: str) -> None: ...
    def HasField(self, name: str) -> bool: ...
    def WhichOneof(self, name: str) -> str | None: ...
'''

METHOD = '''

class Method(NamedTuple):
    """What a method takes and gives, and which of the two is a stream."""

    request: type
    response: type
    request_stream: bool
    response_stream: bool
'''

METHOD_STUB = '''
class Method(NamedTuple):
    request: type[Message]
    response: type[Message]
    request_stream: bool
    response_stream: bool

METHODS: dict[str, Method]
'''

PLAIN = {
    FieldDescriptorProto.TYPE_BYTES: "bytes", FieldDescriptorProto.TYPE_STRING: "str",
    FieldDescriptorProto.TYPE_BOOL: "bool", FieldDescriptorProto.TYPE_INT64: "int",
    FieldDescriptorProto.TYPE_UINT64: "int", FieldDescriptorProto.TYPE_UINT32: "int",
    FieldDescriptorProto.TYPE_ENUM: "int",
}


def descriptors() -> list[FileDescriptorProto]:
    """What protoc reads in the sources, in an order in which each knows what it imports."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        if protoc.main(["protoc", f"--proto_path={SOURCE}", f"--descriptor_set_out={out}",
                        *PROTOS]) != 0:
            raise SystemExit("protoc refuses the sources")
        found = {file.name: file for file in FileDescriptorSet.FromString(out.read_bytes()).file}
    files = [found[name] for name in PROTOS]
    for file in files:
        for message in file.message_type:
            for field in message.field:
                field.ClearField("json_name")          # versions of protoc differ in writing it
    return files


def literals(data: bytes) -> Iterator[str]:
    """Lines of bytes literals."""
    line = b""
    for i in range(len(data)):
        if len(repr(line + data[i:i + 1])) > 94:
            yield f"    {line!r}"
            line = b""
        line += data[i:i + 1]
    yield f"    {line!r}"


def short(name: str) -> str:
    """".mvccpb.KeyValue" -> "KeyValue": no name is in both packages."""
    return name.rsplit(".", 1)[1]


def module(files: list[FileDescriptorProto]) -> str:
    """The text of messages.py."""
    lines = [MODULE]
    for file in files:
        lines += ["_pool.AddSerializedFile(",
                  *literals(file.SerializeToString(deterministic=True)), ")", ""]
    for file in files:
        lines += [f'{message.name} = _message("{file.package}.{message.name}")'
                  for message in file.message_type]
        for enum in file.enum_type:
            lines += ["", *(f"{value.name} = {value.number}" for value in enum.value)]
    lines += [METHOD, "", "METHODS = {"]
    for file in files:
        for service in file.service:
            for method in service.method:
                lines += [
                    f'    "/{file.package}.{service.name}/{method.name}": Method(',
                    f"        {short(method.input_type)}, {short(method.output_type)}, "
                    f"{method.client_streaming}, {method.server_streaming}),"]
    return "\n".join([*lines, "}", ""])


def stub_of(message: DescriptorProto) -> Iterator[str]:
    """The lines of one message in the stub."""
    yield f"class {message.name}(Message):"
    for enum in message.enum_type:
        yield from (f"    {value.name}: ClassVar[int]" for value in enum.value)
    arguments = []
    for field in message.field:
        kind = PLAIN.get(field.type) or short(field.type_name)
        if field.label == field.LABEL_REPEATED:
            yield f"    @property\n    def {field.name}(self) -> Repeated[{kind}]: ..."
            arguments.append(f"{field.name}: Iterable[{kind}] = ...")
        elif field.type == field.TYPE_MESSAGE:
            yield f"    @property\n    def {field.name}(self) -> {kind}: ..."
            arguments.append(f"{field.name}: {kind} | None = ...")
        else:
            yield f"    {field.name}: {kind}"
            arguments.append(f"{field.name}: {kind} = ...")
    if not arguments:
        yield "    def __init__(self) -> None: ..."
    else:
        yield "    def __init__(\n        self, *,"
        yield from (f"        {argument}," for argument in arguments)
        yield "    ) -> None: ..."


def stub(files: list[FileDescriptorProto]) -> str:
    """The text of messages.pyi."""
    lines = [STUB]
    for file in files:
        for message in file.message_type:
            lines += [*stub_of(message), ""]
        for enum in file.enum_type:
            lines += [f"{value.name}: int" for value in enum.value]
    return "\n".join([*lines, METHOD_STUB.lstrip("\n")])


def texts() -> dict[Path, str]:
    """Each file made, with its text."""
    files = descriptors()
    return {SOURCE / "messages.py": module(files), SOURCE / "messages.pyi": stub(files)}


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text)
