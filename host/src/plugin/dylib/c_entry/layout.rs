//! The layout and the numbers of `plugsocket.h`; `tests/c/layout.c` asserts the same of the header.

use std::mem::{offset_of, size_of};

use plugsocket_plugin::abi::{
    closed_by, completion, config_change, field, kind, message, metric, metric_change, scope,
    status, target, why_retiring, why_snapshot,
};

use super::types::{
    FIRST_SIZE, MAGIC, PsAudience, PsBytes, PsCloseReason, PsCompletion, PsCount, PsEvent, PsFail,
    PsHead, PsHost, PsIds, PsLog, PsMessage, PsMetric, PsPair, PsPlugin, PsRequest, PsResponse,
    PsSession, PsSink, PsStr, PsVisitor,
};

/// Asserts the size of a type and the offsets of its fields.
macro_rules! layout {
    ($type:ty, $size:literal; $($field:ident $at:literal)*) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            $(assert!(offset_of!($type, $field) == $at);)*
        };
    };
}

layout!(PsHead, 16; magic 0 abi_version 4 size 8);
layout!(PsStr, 16; data 0 size 8);
layout!(PsBytes, 16; data 0 size 8);
layout!(PsIds, 16; data 0 count 8);
layout!(PsPair, 32; name 0 value 16);
layout!(PsCount, 16; status 0 count 8);
layout!(PsMessage, 24; kind 0 bytes 8);
layout!(PsSink, 16; context 0 put 8);
layout!(PsFail, 16; context 0 put 8);
layout!(PsSession, 40; id 0 kind 8 uuid 16 opaque 32);
layout!(PsRequest, 56; ticket 0 kind 8 method 16 body 32 opaque 48);
layout!(PsCloseReason, 24; code 0 by 4 text 8);
layout!(PsAudience, 24; scope 0 websockets_only 4 except 8);
layout!(PsVisitor, 16; context 0 visit 8);
layout!(PsCompletion, 24; kind 0 code 4 text 8);
layout!(PsResponse, 40; status 0 headers 8 header_count 16 body 24);
layout!(PsEvent, 24; value 0 bytes 8);
layout!(PsMetric, 72; kind 0 name 8 help 24 labels 40 label_count 48 buckets 56 bucket_count 64);
layout!(PsLog, 24; context 0 max_level 8 write 16);
layout!(PsHost, 288;
    magic 0 abi_version 4 size 8 send 16 broadcast 24 feedback 32 join 40 leave 48 publish 56
    send_latest 64 broadcast_latest 72 publish_latest 80 close 88 set_fyi 96 sessions 104 log 112
    defer 120 complete 128 respond 136 post 144 post_value 152 set_timer 160 cancel_timer 168
    members 176 room_count 184 rooms 192 room_names 200 set_room_data 208 room_data 216 data 224
    set_data 232 session_field 240 session_data 248 request_field 256 request_headers 264
    metric 272 record 280
);
layout!(PsPlugin, 240;
    head 0 flags 16 name 24 version 40 build 56 config_schema 72 attach 88 start 96 open 104
    message 112 messages 120 close 128 error 136 tick_every 144 tick 152 snapshot 160 restore 168
    event 176 timer 184 retiring 192 config_changed 200 request 208 suspended 216 resumed 224
    destroy 232
);

const _: () = {
    assert!(MAGIC == 0x5053_4b54 && FIRST_SIZE <= size_of::<PsPlugin>());
    assert!(status::OK == 0 && status::GONE == 1 && status::RETIRED == 2);
    assert!(status::TOO_LARGE == 3 && status::TOO_MANY == 4 && status::INVALID == 5);
    assert!(message::TEXT == 1 && message::BINARY == 2);
    assert!(kind::WEBSOCKET == 1 && kind::BACKEND == 2 && kind::TCP == 3);
    assert!(field::IDENT == 1 && field::ADDRESS == 2 && field::RESOURCE == 3);
    assert!(field::QUERY == 4 && field::HEADER == 5 && field::USER == 6 && field::CLAIMS == 7);
    assert!(field::PATH == 8 && field::PARAMETER == 9);
    assert!(closed_by::PEER == 1 && closed_by::PLUGIN == 2 && closed_by::HOST == 3);
    assert!(scope::RESOURCE == 1 && scope::ALL == 2);
    assert!(target::UUID == 1 && target::IDENT == 2);
    assert!(completion::DONE == 1 && completion::FYI == 2);
    assert!(completion::REFUSED == 3 && completion::FAILED == 4);
    assert!(metric::COUNTER == 1 && metric::GAUGE == 2 && metric::HISTOGRAM == 3);
    assert!(metric_change::ADD == 1 && metric_change::SET == 2 && metric_change::OBSERVE == 3);
    assert!(why_snapshot::REPLACED == 1 && why_snapshot::RECONFIGURED == 2);
    assert!(why_snapshot::STORED == 3 && why_snapshot::STOPPING == 4);
    assert!(why_snapshot::CHECKED == 5);
    assert!(why_retiring::REPLACED == 1 && why_retiring::RECONFIGURED == 2);
    assert!(why_retiring::REMOVED == 3 && why_retiring::DISABLED == 4);
    assert!(why_retiring::STOPPING == 5);
    assert!(config_change::RESTART == 0 && config_change::APPLIED == 1);
};
