# SPDX-License-Identifier: Apache-2.0
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



_pool.AddSerializedFile(
    b'\n\x08kv.proto\x12\x06mvccpb"u\n\x08KeyValue\x12\x0b\n\x03key\x18\x01 \x01(\x0c\x12\x17\n'
    b'\x0fcreate_revision\x18\x02 \x01(\x03\x12\x14\n\x0cmod_revision\x18\x03 \x01(\x03\x12\x0f\n'
    b'\x07version\x18\x04 \x01(\x03\x12\r\n\x05value\x18\x05 \x01(\x0c\x12\r\n\x05lease\x18\x06 '
    b'\x01(\x03"\x91\x01\n\x05Event\x12%\n\x04type\x18\x01 \x01(\x0e2\x17.mvccpb.Event.EventType'
    b'\x12\x1c\n\x02kv\x18\x02 \x01(\x0b2\x10.mvccpb.KeyValue\x12!\n\x07prev_kv\x18\x03 \x01(\x0b'
    b'2\x10.mvccpb.KeyValue" \n\tEventType\x12\x07\n\x03PUT\x10\x00\x12\n\n\x06DELETE\x10\x01b'
    b'\x06proto3'
)

_pool.AddSerializedFile(
    b'\n\trpc.proto\x12\x0cetcdserverpb\x1a\x08kv.proto"\\\n\x0eResponseHeader\x12\x12\n\ncluster'
    b'_id\x18\x01 \x01(\x04\x12\x11\n\tmember_id\x18\x02 \x01(\x04\x12\x10\n\x08revision\x18\x03 '
    b'\x01(\x03\x12\x11\n\traft_term\x18\x04 \x01(\x04"\xe4\x03\n\x0cRangeRequest\x12\x0b\n\x03ke'
    b'y\x18\x01 \x01(\x0c\x12\x11\n\trange_end\x18\x02 \x01(\x0c\x12\r\n\x05limit\x18\x03 \x01('
    b'\x03\x12\x10\n\x08revision\x18\x04 \x01(\x03\x128\n\nsort_order\x18\x05 \x01(\x0e2$.etcdser'
    b'verpb.RangeRequest.SortOrder\x12:\n\x0bsort_target\x18\x06 \x01(\x0e2%.etcdserverpb.RangeRe'
    b'quest.SortTarget\x12\x14\n\x0cserializable\x18\x07 \x01(\x08\x12\x11\n\tkeys_only\x18\x08 '
    b'\x01(\x08\x12\x12\n\ncount_only\x18\t \x01(\x08\x12\x18\n\x10min_mod_revision\x18\n \x01('
    b'\x03\x12\x18\n\x10max_mod_revision\x18\x0b \x01(\x03\x12\x1b\n\x13min_create_revision\x18'
    b'\x0c \x01(\x03\x12\x1b\n\x13max_create_revision\x18\r \x01(\x03".\n\tSortOrder\x12\x08\n'
    b'\x04NONE\x10\x00\x12\n\n\x06ASCEND\x10\x01\x12\x0b\n\x07DESCEND\x10\x02"B\n\nSortTarget\x12'
    b'\x07\n\x03KEY\x10\x00\x12\x0b\n\x07VERSION\x10\x01\x12\n\n\x06CREATE\x10\x02\x12\x07\n\x03M'
    b'OD\x10\x03\x12\t\n\x05VALUE\x10\x04"y\n\rRangeResponse\x12,\n\x06header\x18\x01 \x01(\x0b2'
    b'\x1c.etcdserverpb.ResponseHeader\x12\x1d\n\x03kvs\x18\x02 \x03(\x0b2\x10.mvccpb.KeyValue'
    b'\x12\x0c\n\x04more\x18\x03 \x01(\x08\x12\r\n\x05count\x18\x04 \x01(\x03"t\n\nPutRequest\x12'
    b'\x0b\n\x03key\x18\x01 \x01(\x0c\x12\r\n\x05value\x18\x02 \x01(\x0c\x12\r\n\x05lease\x18\x03'
    b' \x01(\x03\x12\x0f\n\x07prev_kv\x18\x04 \x01(\x08\x12\x14\n\x0cignore_value\x18\x05 \x01('
    b'\x08\x12\x14\n\x0cignore_lease\x18\x06 \x01(\x08"^\n\x0bPutResponse\x12,\n\x06header\x18'
    b'\x01 \x01(\x0b2\x1c.etcdserverpb.ResponseHeader\x12!\n\x07prev_kv\x18\x02 \x01(\x0b2\x10.mv'
    b'ccpb.KeyValue"E\n\x12DeleteRangeRequest\x12\x0b\n\x03key\x18\x01 \x01(\x0c\x12\x11\n\trange'
    b'_end\x18\x02 \x01(\x0c\x12\x0f\n\x07prev_kv\x18\x03 \x01(\x08"x\n\x13DeleteRangeResponse'
    b'\x12,\n\x06header\x18\x01 \x01(\x0b2\x1c.etcdserverpb.ResponseHeader\x12\x0f\n\x07deleted'
    b'\x18\x02 \x01(\x03\x12"\n\x08prev_kvs\x18\x03 \x03(\x0b2\x10.mvccpb.KeyValue"\xef\x01\n\tRe'
    b'questOp\x123\n\rrequest_range\x18\x01 \x01(\x0b2\x1a.etcdserverpb.RangeRequestH\x00\x12/\n'
    b'\x0brequest_put\x18\x02 \x01(\x0b2\x18.etcdserverpb.PutRequestH\x00\x12@\n\x14request_delet'
    b'e_range\x18\x03 \x01(\x0b2 .etcdserverpb.DeleteRangeRequestH\x00\x12/\n\x0brequest_txn\x18'
    b'\x04 \x01(\x0b2\x18.etcdserverpb.TxnRequestH\x00B\t\n\x07request"\xf9\x01\n\nResponseOp\x12'
    b'5\n\x0eresponse_range\x18\x01 \x01(\x0b2\x1b.etcdserverpb.RangeResponseH\x00\x121\n\x0cresp'
    b'onse_put\x18\x02 \x01(\x0b2\x19.etcdserverpb.PutResponseH\x00\x12B\n\x15response_delete_ran'
    b'ge\x18\x03 \x01(\x0b2!.etcdserverpb.DeleteRangeResponseH\x00\x121\n\x0cresponse_txn\x18\x04'
    b' \x01(\x0b2\x19.etcdserverpb.TxnResponseH\x00B\n\n\x08response"\x96\x03\n\x07Compare\x123\n'
    b'\x06result\x18\x01 \x01(\x0e2#.etcdserverpb.Compare.CompareResult\x123\n\x06target\x18\x02 '
    b'\x01(\x0e2#.etcdserverpb.Compare.CompareTarget\x12\x0b\n\x03key\x18\x03 \x01(\x0c\x12\x11\n'
    b'\x07version\x18\x04 \x01(\x03H\x00\x12\x19\n\x0fcreate_revision\x18\x05 \x01(\x03H\x00\x12'
    b'\x16\n\x0cmod_revision\x18\x06 \x01(\x03H\x00\x12\x0f\n\x05value\x18\x07 \x01(\x0cH\x00\x12'
    b'\x0f\n\x05lease\x18\x08 \x01(\x03H\x00\x12\x11\n\trange_end\x18@ \x01(\x0c"@\n\rCompareResu'
    b'lt\x12\t\n\x05EQUAL\x10\x00\x12\x0b\n\x07GREATER\x10\x01\x12\x08\n\x04LESS\x10\x02\x12\r\n'
    b'\tNOT_EQUAL\x10\x03"G\n\rCompareTarget\x12\x0b\n\x07VERSION\x10\x00\x12\n\n\x06CREATE\x10'
    b'\x01\x12\x07\n\x03MOD\x10\x02\x12\t\n\x05VALUE\x10\x03\x12\t\n\x05LEASE\x10\x04B\x0e\n\x0ct'
    b'arget_union"\x88\x01\n\nTxnRequest\x12&\n\x07compare\x18\x01 \x03(\x0b2\x15.etcdserverpb.Co'
    b'mpare\x12(\n\x07success\x18\x02 \x03(\x0b2\x17.etcdserverpb.RequestOp\x12(\n\x07failure\x18'
    b'\x03 \x03(\x0b2\x17.etcdserverpb.RequestOp"{\n\x0bTxnResponse\x12,\n\x06header\x18\x01 \x01'
    b'(\x0b2\x1c.etcdserverpb.ResponseHeader\x12\x11\n\tsucceeded\x18\x02 \x01(\x08\x12+\n\trespo'
    b'nses\x18\x03 \x03(\x0b2\x18.etcdserverpb.ResponseOp"7\n\x11CompactionRequest\x12\x10\n\x08r'
    b'evision\x18\x01 \x01(\x03\x12\x10\n\x08physical\x18\x02 \x01(\x08"B\n\x12CompactionResponse'
    b'\x12,\n\x06header\x18\x01 \x01(\x0b2\x1c.etcdserverpb.ResponseHeader"\xd7\x01\n\x0cWatchReq'
    b'uest\x12:\n\x0ecreate_request\x18\x01 \x01(\x0b2 .etcdserverpb.WatchCreateRequestH\x00\x12:'
    b'\n\x0ecancel_request\x18\x02 \x01(\x0b2 .etcdserverpb.WatchCancelRequestH\x00\x12>\n\x10pro'
    b'gress_request\x18\x03 \x01(\x0b2".etcdserverpb.WatchProgressRequestH\x00B\x0f\n\rrequest_un'
    b'ion"\xff\x01\n\x12WatchCreateRequest\x12\x0b\n\x03key\x18\x01 \x01(\x0c\x12\x11\n\trange_en'
    b'd\x18\x02 \x01(\x0c\x12\x16\n\x0estart_revision\x18\x03 \x01(\x03\x12\x17\n\x0fprogress_not'
    b'ify\x18\x04 \x01(\x08\x12<\n\x07filters\x18\x05 \x03(\x0e2+.etcdserverpb.WatchCreateRequest'
    b'.FilterType\x12\x0f\n\x07prev_kv\x18\x06 \x01(\x08\x12\x10\n\x08watch_id\x18\x07 \x01(\x03'
    b'\x12\x10\n\x08fragment\x18\x08 \x01(\x08"%\n\nFilterType\x12\t\n\x05NOPUT\x10\x00\x12\x0c\n'
    b'\x08NODELETE\x10\x01"&\n\x12WatchCancelRequest\x12\x10\n\x08watch_id\x18\x01 \x01(\x03"\x16'
    b'\n\x14WatchProgressRequest"\xd4\x01\n\rWatchResponse\x12,\n\x06header\x18\x01 \x01(\x0b2'
    b'\x1c.etcdserverpb.ResponseHeader\x12\x10\n\x08watch_id\x18\x02 \x01(\x03\x12\x0f\n\x07creat'
    b'ed\x18\x03 \x01(\x08\x12\x10\n\x08canceled\x18\x04 \x01(\x08\x12\x18\n\x10compact_revision'
    b'\x18\x05 \x01(\x03\x12\x15\n\rcancel_reason\x18\x06 \x01(\t\x12\x10\n\x08fragment\x18\x07 '
    b'\x01(\x08\x12\x1d\n\x06events\x18\x0b \x03(\x0b2\r.mvccpb.Event",\n\x11LeaseGrantRequest'
    b'\x12\x0b\n\x03TTL\x18\x01 \x01(\x03\x12\n\n\x02ID\x18\x02 \x01(\x03"j\n\x12LeaseGrantRespon'
    b'se\x12,\n\x06header\x18\x01 \x01(\x0b2\x1c.etcdserverpb.ResponseHeader\x12\n\n\x02ID\x18'
    b'\x02 \x01(\x03\x12\x0b\n\x03TTL\x18\x03 \x01(\x03\x12\r\n\x05error\x18\x04 \x01(\t" \n\x12L'
    b'easeRevokeRequest\x12\n\n\x02ID\x18\x01 \x01(\x03"C\n\x13LeaseRevokeResponse\x12,\n\x06head'
    b'er\x18\x01 \x01(\x0b2\x1c.etcdserverpb.ResponseHeader"#\n\x15LeaseKeepAliveRequest\x12\n\n'
    b'\x02ID\x18\x01 \x01(\x03"_\n\x16LeaseKeepAliveResponse\x12,\n\x06header\x18\x01 \x01(\x0b2'
    b'\x1c.etcdserverpb.ResponseHeader\x12\n\n\x02ID\x18\x02 \x01(\x03\x12\x0b\n\x03TTL\x18\x03 '
    b'\x01(\x03"2\n\x16LeaseTimeToLiveRequest\x12\n\n\x02ID\x18\x01 \x01(\x03\x12\x0c\n\x04keys'
    b'\x18\x02 \x01(\x08"\x82\x01\n\x17LeaseTimeToLiveResponse\x12,\n\x06header\x18\x01 \x01(\x0b'
    b'2\x1c.etcdserverpb.ResponseHeader\x12\n\n\x02ID\x18\x02 \x01(\x03\x12\x0b\n\x03TTL\x18\x03 '
    b'\x01(\x03\x12\x12\n\ngrantedTTL\x18\x04 \x01(\x03\x12\x0c\n\x04keys\x18\x05 \x03(\x0c"\x14'
    b'\n\x12LeaseLeasesRequest"\x19\n\x0bLeaseStatus\x12\n\n\x02ID\x18\x01 \x01(\x03"n\n\x13Lease'
    b'LeasesResponse\x12,\n\x06header\x18\x01 \x01(\x0b2\x1c.etcdserverpb.ResponseHeader\x12)\n'
    b'\x06leases\x18\x02 \x03(\x0b2\x19.etcdserverpb.LeaseStatus"\xb6\x01\n\x0cAlarmRequest\x126'
    b'\n\x06action\x18\x01 \x01(\x0e2&.etcdserverpb.AlarmRequest.AlarmAction\x12\x10\n\x08memberI'
    b'D\x18\x02 \x01(\x04\x12&\n\x05alarm\x18\x03 \x01(\x0e2\x17.etcdserverpb.AlarmType"4\n\x0bAl'
    b'armAction\x12\x07\n\x03GET\x10\x00\x12\x0c\n\x08ACTIVATE\x10\x01\x12\x0e\n\nDEACTIVATE\x10'
    b'\x02"G\n\x0bAlarmMember\x12\x10\n\x08memberID\x18\x01 \x01(\x04\x12&\n\x05alarm\x18\x02 '
    b'\x01(\x0e2\x17.etcdserverpb.AlarmType"h\n\rAlarmResponse\x12,\n\x06header\x18\x01 \x01(\x0b'
    b'2\x1c.etcdserverpb.ResponseHeader\x12)\n\x06alarms\x18\x02 \x03(\x0b2\x19.etcdserverpb.Alar'
    b'mMember"\x0f\n\rStatusRequest"7\n\rDowngradeInfo\x12\x0f\n\x07enabled\x18\x01 \x01(\x08\x12'
    b'\x15\n\rtargetVersion\x18\x02 \x01(\t"\xc7\x02\n\x0eStatusResponse\x12,\n\x06header\x18\x01'
    b' \x01(\x0b2\x1c.etcdserverpb.ResponseHeader\x12\x0f\n\x07version\x18\x02 \x01(\t\x12\x0e\n'
    b'\x06dbSize\x18\x03 \x01(\x03\x12\x0e\n\x06leader\x18\x04 \x01(\x04\x12\x11\n\traftIndex\x18'
    b'\x05 \x01(\x04\x12\x10\n\x08raftTerm\x18\x06 \x01(\x04\x12\x18\n\x10raftAppliedIndex\x18'
    b'\x07 \x01(\x04\x12\x0e\n\x06errors\x18\x08 \x03(\t\x12\x13\n\x0bdbSizeInUse\x18\t \x01(\x03'
    b'\x12\x11\n\tisLearner\x18\n \x01(\x08\x12\x16\n\x0estorageVersion\x18\x0b \x01(\t\x12\x13\n'
    b'\x0bdbSizeQuota\x18\x0c \x01(\x03\x122\n\rdowngradeInfo\x18\r \x01(\x0b2\x1b.etcdserverpb.D'
    b'owngradeInfo"\x13\n\x11DefragmentRequest"B\n\x12DefragmentResponse\x12,\n\x06header\x18\x01'
    b' \x01(\x0b2\x1c.etcdserverpb.ResponseHeader"\r\n\x0bHashRequest"J\n\x0cHashResponse\x12,\n'
    b'\x06header\x18\x01 \x01(\x0b2\x1c.etcdserverpb.ResponseHeader\x12\x0c\n\x04hash\x18\x02 '
    b'\x01(\r"!\n\rHashKVRequest\x12\x10\n\x08revision\x18\x01 \x01(\x03"}\n\x0eHashKVResponse'
    b'\x12,\n\x06header\x18\x01 \x01(\x0b2\x1c.etcdserverpb.ResponseHeader\x12\x0c\n\x04hash\x18'
    b'\x02 \x01(\r\x12\x18\n\x10compact_revision\x18\x03 \x01(\x03\x12\x15\n\rhash_revision\x18'
    b'\x04 \x01(\x03"\x11\n\x0fSnapshotRequest"x\n\x10SnapshotResponse\x12,\n\x06header\x18\x01 '
    b'\x01(\x0b2\x1c.etcdserverpb.ResponseHeader\x12\x17\n\x0fremaining_bytes\x18\x02 \x01(\x04'
    b'\x12\x0c\n\x04blob\x18\x03 \x01(\x0c\x12\x0f\n\x07version\x18\x04 \x01(\t"[\n\x06Member\x12'
    b'\n\n\x02ID\x18\x01 \x01(\x04\x12\x0c\n\x04name\x18\x02 \x01(\t\x12\x10\n\x08peerURLs\x18'
    b'\x03 \x03(\t\x12\x12\n\nclientURLs\x18\x04 \x03(\t\x12\x11\n\tisLearner\x18\x05 \x01(\x08")'
    b'\n\x11MemberListRequest\x12\x14\n\x0clinearizable\x18\x01 \x01(\x08"i\n\x12MemberListRespon'
    b'se\x12,\n\x06header\x18\x01 \x01(\x0b2\x1c.etcdserverpb.ResponseHeader\x12%\n\x07members'
    b'\x18\x02 \x03(\x0b2\x14.etcdserverpb.Member*/\n\tAlarmType\x12\x08\n\x04NONE\x10\x00\x12'
    b'\x0b\n\x07NOSPACE\x10\x01\x12\x0b\n\x07CORRUPT\x10\x022\xe0\x02\n\x02KV\x12@\n\x05Range\x12'
    b'\x1a.etcdserverpb.RangeRequest\x1a\x1b.etcdserverpb.RangeResponse\x12:\n\x03Put\x12\x18.etc'
    b'dserverpb.PutRequest\x1a\x19.etcdserverpb.PutResponse\x12R\n\x0bDeleteRange\x12 .etcdserver'
    b'pb.DeleteRangeRequest\x1a!.etcdserverpb.DeleteRangeResponse\x12:\n\x03Txn\x12\x18.etcdserve'
    b'rpb.TxnRequest\x1a\x19.etcdserverpb.TxnResponse\x12L\n\x07Compact\x12\x1f.etcdserverpb.Comp'
    b'actionRequest\x1a .etcdserverpb.CompactionResponse2M\n\x05Watch\x12D\n\x05Watch\x12\x1a.etc'
    b'dserverpb.WatchRequest\x1a\x1b.etcdserverpb.WatchResponse(\x010\x012\xc1\x03\n\x05Lease\x12'
    b'O\n\nLeaseGrant\x12\x1f.etcdserverpb.LeaseGrantRequest\x1a .etcdserverpb.LeaseGrantResponse'
    b'\x12R\n\x0bLeaseRevoke\x12 .etcdserverpb.LeaseRevokeRequest\x1a!.etcdserverpb.LeaseRevokeRe'
    b'sponse\x12_\n\x0eLeaseKeepAlive\x12#.etcdserverpb.LeaseKeepAliveRequest\x1a$.etcdserverpb.L'
    b'easeKeepAliveResponse(\x010\x01\x12^\n\x0fLeaseTimeToLive\x12$.etcdserverpb.LeaseTimeToLive'
    b'Request\x1a%.etcdserverpb.LeaseTimeToLiveResponse\x12R\n\x0bLeaseLeases\x12 .etcdserverpb.L'
    b'easeLeasesRequest\x1a!.etcdserverpb.LeaseLeasesResponse2\xb6\x03\n\x0bMaintenance\x12@\n'
    b'\x05Alarm\x12\x1a.etcdserverpb.AlarmRequest\x1a\x1b.etcdserverpb.AlarmResponse\x12C\n\x06St'
    b'atus\x12\x1b.etcdserverpb.StatusRequest\x1a\x1c.etcdserverpb.StatusResponse\x12O\n\nDefragm'
    b'ent\x12\x1f.etcdserverpb.DefragmentRequest\x1a .etcdserverpb.DefragmentResponse\x12=\n\x04H'
    b'ash\x12\x19.etcdserverpb.HashRequest\x1a\x1a.etcdserverpb.HashResponse\x12C\n\x06HashKV\x12'
    b'\x1b.etcdserverpb.HashKVRequest\x1a\x1c.etcdserverpb.HashKVResponse\x12K\n\x08Snapshot\x12'
    b'\x1d.etcdserverpb.SnapshotRequest\x1a\x1e.etcdserverpb.SnapshotResponse0\x012Z\n\x07Cluster'
    b'\x12O\n\nMemberList\x12\x1f.etcdserverpb.MemberListRequest\x1a .etcdserverpb.MemberListResp'
    b'onseb\x06proto3'
)

KeyValue = _message("mvccpb.KeyValue")
Event = _message("mvccpb.Event")
ResponseHeader = _message("etcdserverpb.ResponseHeader")
RangeRequest = _message("etcdserverpb.RangeRequest")
RangeResponse = _message("etcdserverpb.RangeResponse")
PutRequest = _message("etcdserverpb.PutRequest")
PutResponse = _message("etcdserverpb.PutResponse")
DeleteRangeRequest = _message("etcdserverpb.DeleteRangeRequest")
DeleteRangeResponse = _message("etcdserverpb.DeleteRangeResponse")
RequestOp = _message("etcdserverpb.RequestOp")
ResponseOp = _message("etcdserverpb.ResponseOp")
Compare = _message("etcdserverpb.Compare")
TxnRequest = _message("etcdserverpb.TxnRequest")
TxnResponse = _message("etcdserverpb.TxnResponse")
CompactionRequest = _message("etcdserverpb.CompactionRequest")
CompactionResponse = _message("etcdserverpb.CompactionResponse")
WatchRequest = _message("etcdserverpb.WatchRequest")
WatchCreateRequest = _message("etcdserverpb.WatchCreateRequest")
WatchCancelRequest = _message("etcdserverpb.WatchCancelRequest")
WatchProgressRequest = _message("etcdserverpb.WatchProgressRequest")
WatchResponse = _message("etcdserverpb.WatchResponse")
LeaseGrantRequest = _message("etcdserverpb.LeaseGrantRequest")
LeaseGrantResponse = _message("etcdserverpb.LeaseGrantResponse")
LeaseRevokeRequest = _message("etcdserverpb.LeaseRevokeRequest")
LeaseRevokeResponse = _message("etcdserverpb.LeaseRevokeResponse")
LeaseKeepAliveRequest = _message("etcdserverpb.LeaseKeepAliveRequest")
LeaseKeepAliveResponse = _message("etcdserverpb.LeaseKeepAliveResponse")
LeaseTimeToLiveRequest = _message("etcdserverpb.LeaseTimeToLiveRequest")
LeaseTimeToLiveResponse = _message("etcdserverpb.LeaseTimeToLiveResponse")
LeaseLeasesRequest = _message("etcdserverpb.LeaseLeasesRequest")
LeaseStatus = _message("etcdserverpb.LeaseStatus")
LeaseLeasesResponse = _message("etcdserverpb.LeaseLeasesResponse")
AlarmRequest = _message("etcdserverpb.AlarmRequest")
AlarmMember = _message("etcdserverpb.AlarmMember")
AlarmResponse = _message("etcdserverpb.AlarmResponse")
StatusRequest = _message("etcdserverpb.StatusRequest")
DowngradeInfo = _message("etcdserverpb.DowngradeInfo")
StatusResponse = _message("etcdserverpb.StatusResponse")
DefragmentRequest = _message("etcdserverpb.DefragmentRequest")
DefragmentResponse = _message("etcdserverpb.DefragmentResponse")
HashRequest = _message("etcdserverpb.HashRequest")
HashResponse = _message("etcdserverpb.HashResponse")
HashKVRequest = _message("etcdserverpb.HashKVRequest")
HashKVResponse = _message("etcdserverpb.HashKVResponse")
SnapshotRequest = _message("etcdserverpb.SnapshotRequest")
SnapshotResponse = _message("etcdserverpb.SnapshotResponse")
Member = _message("etcdserverpb.Member")
MemberListRequest = _message("etcdserverpb.MemberListRequest")
MemberListResponse = _message("etcdserverpb.MemberListResponse")

NONE = 0
NOSPACE = 1
CORRUPT = 2


class Method(NamedTuple):
    """What a method takes and gives, and which of the two is a stream."""

    request: type
    response: type
    request_stream: bool
    response_stream: bool


METHODS = {
    "/etcdserverpb.KV/Range": Method(
        RangeRequest, RangeResponse, False, False),
    "/etcdserverpb.KV/Put": Method(
        PutRequest, PutResponse, False, False),
    "/etcdserverpb.KV/DeleteRange": Method(
        DeleteRangeRequest, DeleteRangeResponse, False, False),
    "/etcdserverpb.KV/Txn": Method(
        TxnRequest, TxnResponse, False, False),
    "/etcdserverpb.KV/Compact": Method(
        CompactionRequest, CompactionResponse, False, False),
    "/etcdserverpb.Watch/Watch": Method(
        WatchRequest, WatchResponse, True, True),
    "/etcdserverpb.Lease/LeaseGrant": Method(
        LeaseGrantRequest, LeaseGrantResponse, False, False),
    "/etcdserverpb.Lease/LeaseRevoke": Method(
        LeaseRevokeRequest, LeaseRevokeResponse, False, False),
    "/etcdserverpb.Lease/LeaseKeepAlive": Method(
        LeaseKeepAliveRequest, LeaseKeepAliveResponse, True, True),
    "/etcdserverpb.Lease/LeaseTimeToLive": Method(
        LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, False, False),
    "/etcdserverpb.Lease/LeaseLeases": Method(
        LeaseLeasesRequest, LeaseLeasesResponse, False, False),
    "/etcdserverpb.Maintenance/Alarm": Method(
        AlarmRequest, AlarmResponse, False, False),
    "/etcdserverpb.Maintenance/Status": Method(
        StatusRequest, StatusResponse, False, False),
    "/etcdserverpb.Maintenance/Defragment": Method(
        DefragmentRequest, DefragmentResponse, False, False),
    "/etcdserverpb.Maintenance/Hash": Method(
        HashRequest, HashResponse, False, False),
    "/etcdserverpb.Maintenance/HashKV": Method(
        HashKVRequest, HashKVResponse, False, False),
    "/etcdserverpb.Maintenance/Snapshot": Method(
        SnapshotRequest, SnapshotResponse, False, True),
    "/etcdserverpb.Cluster/MemberList": Method(
        MemberListRequest, MemberListResponse, False, False),
}
