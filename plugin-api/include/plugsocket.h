/*
 * plugsocket.h - applications for the WebSocket host plugsocket, in C and every language that can
 * export a C structure. C11 and C++17. Needs a 64-bit target with ELF libraries (Linux).
 *
 * NAME
 *     A shared library that exports the constant `plugsocket_plugin_v1`, a `struct ps_plugin`, is a
 *     plugin. Installed as lib<name>.so in the plugin folder of the host, it is the plugin <name>
 *     of plugins.toml. It needs no other symbol and links to no library of the host.
 *
 * EXAMPLE
 *     A complete application, which sends each message back. Build it with
 *     `cc -std=c11 -shared -fPIC -I plugin-api/include -o libback.so back.c`.
 *
 *         #include <stdlib.h>
 *         #include "plugsocket.h"
 *
 *         struct back {
 *             const ps_host *host;
 *             ps_host_context *context;
 *         };
 *
 *         static void *start(const ps_host *host, ps_host_context *context, ps_str config,
 *                            ps_fail fail)
 *         {
 *             struct back *back = malloc(sizeof *back);
 *             (void)config;
 *             if (back == NULL) {
 *                 ps_refuse(fail, PS_CLOSE_ERROR, "out of memory");
 *                 return NULL;
 *             }
 *             back->host = host;
 *             back->context = context;
 *             return back;
 *         }
 *
 *         static int message(void *instance, const ps_session *session, ps_message message,
 *                            ps_fail fail)
 *         {
 *             struct back *back = instance;
 *             (void)fail;
 *             (void)back->host->send(back->context, session->id, message);
 *             return PS_OK;
 *         }
 *
 *         static void destroy(void *instance)
 *         {
 *             free(instance);
 *         }
 *
 *         const struct ps_plugin plugsocket_plugin_v1 = {
 *             .magic = PS_MAGIC,
 *             .abi_version = PS_ABI_VERSION,
 *             .size = sizeof(struct ps_plugin),
 *             .name = PS_STR_INIT("back"),
 *             .version = PS_STR_INIT("1.0.0"),
 *             .start = start,
 *             .message = message,
 *             .destroy = destroy,
 *         };
 *
 * MEMORY
 *     Arguments are lent: what a pointer, a ps_str or a ps_bytes refers to is valid until the
 *     function returns, in both directions. Copy what you keep. No side frees memory of the other:
 *     results that have no fixed size go through a ps_sink or ps_fail, whose receiver copies them.
 *     A ps_sink, ps_fail, ps_session or ps_request that a callback receives must not be used after
 *     the callback has returned. `host` and `context` are valid for the life of the process.
 *
 *     Text is UTF-8 with a length and without a terminating NUL. NULL with length 0 is an empty
 *     text. The host passes only valid UTF-8, and checks what it receives: a name, a key or a text
 *     message that is not valid UTF-8, NULL with a length, or a length above SSIZE_MAX is
 *     PS_INVALID. In reasons and log lines, invalid UTF-8 is replaced by U+FFFD.
 *
 * THREADS
 *     Each resource has its own instance. The host makes one call at a time to an instance, from
 *     any of its threads; an instance needs no lock for its own state, and must not keep any in
 *     thread-local variables. Callbacks of different instances run at the same time. `retiring`
 *     and `destroy` run on another thread than the callbacks before.
 *
 *     Functions of ps_host may be called from any thread and in every callback. None waits for a
 *     client. After an instance has been replaced they return PS_RETIRED; a thread of the
 *     application should end then. End such threads before `destroy` returns.
 *
 * LIFETIME
 *     The host copies a new library, opens the copy in a child process, starts, restores and
 *     destroys instances there, and only then opens it itself. It then makes these calls:
 *
 *         attach (once per library)
 *         start -> restore -> open, message, close, ... -> snapshot -> retiring -> destroy
 *
 *     `restore` is called if there is a state to take over. Two instances exist at once during a
 *     replacement. A library is never unloaded.
 *
 * FAILURE
 *     A callback that returns int returns PS_OK, or another value after it has called `fail`, which
 *     gives the reason; ps_refuse does both. Another value without a reason is a failure of the
 *     application: the host closes the connection with 1011, and replaces an instance that fails
 *     more often than `max_panics` per minute.
 *
 *     A crash, abort() or exit() in a callback ends the host. A C++ exception must not leave a
 *     callback: declare callbacks noexcept, and catch inside. longjmp() must not leave one either.
 *
 * COMPATIBILITY
 *     Tables begin with magic, abi_version and size, and only grow at their end. The host treats
 *     callbacks behind `size` and those that are NULL as absent. Check with PS_HAS whether an older
 *     host has a function that was added after the first version of this file. Functions marked
 *     with a step were added with that value of PS_ABI_VERSION; without a mark, with step 3, the
 *     first.
 */
#ifndef PLUGSOCKET_H
#define PLUGSOCKET_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* First field of each table. */
#define PS_MAGIC 0x50534b54u
/* The step of this file. The upper 16 bits count incompatible changes, of which there are none. */
#define PS_ABI_VERSION 3u
/* Whether a table has a function: PS_HAS(host, room_data). Evaluates `table` several times. */
#define PS_HAS(table, field)                                                                       \
    ((size_t)((const char *)(&(table)->field + 1) - (const char *)(table)) <= (table)->size &&     \
     (table)->field != NULL)
/* Initializes a ps_str with a string literal. */
#define PS_STR_INIT(literal) { literal, sizeof(literal) - 1 }

/* ---- Values ----------------------------------------------------------------------------------- */

/* A borrowed UTF-8 text. */
typedef struct ps_str {
    const char *data;
    size_t size;
} ps_str;

/* Borrowed bytes. */
typedef struct ps_bytes {
    const uint8_t *data;
    size_t size;
} ps_bytes;

/* Borrowed numbers of connections. */
typedef struct ps_ids {
    const uint64_t *data;
    size_t count;
} ps_ids;

/* A name and a value. */
typedef struct ps_pair {
    ps_str name;
    ps_str value;
} ps_pair;

/* A result and a number, which is 0 unless `status` is PS_OK. */
typedef struct ps_count {
    int status;
    uint64_t count;
} ps_count;

/* Results of the host's functions. */
enum {
    PS_OK = 0,
    /* The connection is closed, closing, or on another resource; there is no such thing. */
    PS_GONE = 1,
    /* The instance is not serving: it was replaced, or is still in `start`. */
    PS_RETIRED = 2,
    /* A message, name or text is larger than a limit of the host. */
    PS_TOO_LARGE = 3,
    /* More than a limit of the host. */
    PS_TOO_MANY = 4,
    /* An argument is not valid. */
    PS_INVALID = 5,
    /* The host does not have this function. */
    PS_UNSUPPORTED = -1
};

/* Kinds of messages. */
enum { PS_TEXT = 1, PS_BINARY = 2 };

/* One complete message. A PS_TEXT is valid UTF-8. */
typedef struct ps_message {
    uint32_t kind;
    ps_bytes bytes;
} ps_message;

/* Receives bytes or UTF-8 text: `sink.put(sink.context, bytes)`. Copies them. */
typedef struct ps_sink {
    void *context;
    void (*put)(void *context, ps_bytes bytes);
} ps_sink;

/* Receives why a callback fails. Where there is no client, `close_code` has no meaning. */
typedef struct ps_fail {
    void *context;
    void (*put)(void *context, uint16_t close_code, ps_str reason);
} ps_fail;

/* Close codes (RFC 6455 section 7.4.1). An application may use 1000 to 1003, 1007 to 1014 and 3000
 * to 4999; the host replaces any other by 1008. */
enum {
    PS_CLOSE_NORMAL = 1000,
    PS_CLOSE_AWAY = 1001,
    PS_CLOSE_PROTOCOL = 1002,
    PS_CLOSE_UNSUPPORTED = 1003,
    /* Reported only: the connection ended without a close frame. */
    PS_CLOSE_ABNORMAL = 1006,
    PS_CLOSE_INVALID = 1007,
    PS_CLOSE_POLICY = 1008,
    PS_CLOSE_TOO_BIG = 1009,
    PS_CLOSE_ERROR = 1011,
    PS_CLOSE_TRY_AGAIN = 1013
};

/* How a client connected. */
enum {
    /* A browser or any other WebSocket client; any client of an HTTP request. */
    PS_WEBSOCKET = 1,
    /* A script of the operator, accepted by its address or certificate. */
    PS_BACKEND = 2,
    /* Such a script on plain TCP. */
    PS_TCP = 3
};

/* The connection of one client, lent for one callback. Keep `id` to refer to it later. */
typedef struct ps_session {
    /* Identifier of the connection, random. Never send it to a client. */
    uint64_t id;
    /* PS_WEBSOCKET, PS_BACKEND or PS_TCP. */
    uint32_t kind;
    /* What the client received in `ready`; a secret of the client and its scripts. */
    ps_str uuid;
    /* The host's own. */
    const void *opaque;
} ps_session;

/* A plain HTTP request, lent for one callback. */
typedef struct ps_request {
    /* Number by which ps_host.respond answers it. */
    uint64_t ticket;
    /* PS_BACKEND or PS_WEBSOCKET. */
    uint32_t kind;
    /* In upper case: "GET". */
    ps_str method;
    /* At most `max_message` bytes. */
    ps_bytes body;
    /* The host's own. */
    const void *opaque;
} ps_request;

/* What session_field and request_field return. */
enum {
    /* Sessions only: the name that a backend announced. */
    PS_FIELD_IDENT = 1,
    /* The client's IP address without a port, or "unix". */
    PS_FIELD_ADDRESS = 2,
    /* Path of the resource in plugins.toml. */
    PS_FIELD_RESOURCE = 3,
    /* Query of the request, not decoded, without "?". */
    PS_FIELD_QUERY = 4,
    /* First request header with a name, compared without case. */
    PS_FIELD_HEADER = 5,
    /* The authenticated user; absent without `auth`. */
    PS_FIELD_USER = 6,
    /* The claims of the user as JSON. */
    PS_FIELD_CLAIMS = 7,
    /* Path of the request, not decoded. */
    PS_FIELD_PATH = 8,
    /* What a path pattern such as /app/{key} has matched, by a name. */
    PS_FIELD_PARAMETER = 9
};

/* Which side ended a connection. */
enum { PS_BY_PEER = 1, PS_BY_PLUGIN = 2, PS_BY_HOST = 3 };

/* Why a connection ended. */
typedef struct ps_close_reason {
    /* The code sent or received; 1005 for a close frame without one, 1006 without a frame. */
    uint16_t code;
    /* PS_BY_PEER, PS_BY_PLUGIN or PS_BY_HOST. */
    uint32_t by;
    ps_str text;
} ps_close_reason;

/* Reach of a broadcast. */
enum {
    /* The resource of this instance. */
    PS_SCOPE_RESOURCE = 1,
    /* All resources with a dialog. */
    PS_SCOPE_ALL = 2
};

/* Receivers of a broadcast. */
typedef struct ps_audience {
    uint32_t scope;
    /* Not 0: without the operator's scripts. */
    uint32_t websockets_only;
    /* Connections that do not receive it. */
    ps_ids except;
} ps_audience;

/* What ps_host.feedback addresses a client by. */
enum { PS_TARGET_UUID = 1, PS_TARGET_IDENT = 2 };

/* Called once for each session: `visitor.visit(visitor.context, session)`. */
typedef struct ps_visitor {
    void *context;
    void (*visit)(void *context, const ps_session *session);
} ps_visitor;

/* Results of a deferred message. */
enum {
    /* Handled. */
    PS_DONE = 1,
    /* Handled; `text` is the `fyi` of its acknowledgement. */
    PS_DONE_WITH_FYI = 2,
    /* Refused: closes the connection with `code` and `text`. */
    PS_REFUSED = 3,
    /* The application failed: closes the connection with 1011. */
    PS_FAILED = 4
};

/* The result of a deferred message. */
typedef struct ps_completion {
    uint32_t kind;
    uint16_t code;
    ps_str text;
} ps_completion;

/* The answer to an HTTP request. The host adds Content-Length, Connection and Date, and drops
 * headers of these names and invalid ones. */
typedef struct ps_response {
    /* 200 to 599. 0 leaves the request to the host, as if the application had no `request`. */
    uint16_t status;
    const ps_pair *headers;
    size_t header_count;
    ps_bytes body;
} ps_response;

/* What was posted, lent for one callback. */
typedef struct ps_event {
    /* The value of post_value, which the instance now owns; NULL for the bytes of `post`. */
    void *value;
    ps_bytes bytes;
} ps_event;

/* Kinds of metrics. */
enum { PS_COUNTER = 1, PS_GAUGE = 2, PS_HISTOGRAM = 3 };

/* How a series changes. */
enum {
    /* Adds a value, which is not negative for a counter. */
    PS_ADD = 1,
    /* Sets a gauge. */
    PS_SET = 2,
    /* Counts a value in a histogram. */
    PS_OBSERVE = 3
};

/* A series of a metric. */
typedef struct ps_metric {
    uint32_t kind;
    /* Letters, digits and "_". */
    ps_str name;
    /* One sentence for operators. */
    ps_str help;
    const ps_pair *labels;
    size_t label_count;
    /* Upper bounds of a histogram, ascending, at most 64. */
    const double *buckets;
    size_t bucket_count;
} ps_metric;

/* Severity of a log line. */
enum { PS_LOG_ERROR = 1, PS_LOG_WARN = 2, PS_LOG_INFO = 3, PS_LOG_DEBUG = 4, PS_LOG_TRACE = 5 };

/* The log of a library outside of its instances. Valid for the life of the process. */
typedef struct ps_log {
    void *context;
    /* Lines above this level are discarded; 0 discards all. */
    uint32_t max_level;
    /* Writes a line: `log->write(log->context, PS_LOG_INFO, place, text)`, from any thread. `place`
     * says where in the library; it may be empty. */
    void (*write)(void *context, uint32_t level, ps_str place, ps_str text);
} ps_log;

/* Opaque: the host's data about one instance. Each function of the host takes it first. */
typedef struct ps_host_context ps_host_context;

/* ---- The host --------------------------------------------------------------------------------- */

/*
 * The functions of the host. All copy what they need before they return.
 *
 * Each returns PS_RETIRED in `start` and after the instance was replaced, unless it says otherwise.
 * In `retiring`, those that name one connection still work. Each returns PS_INVALID for arguments
 * that MEMORY above forbids. These two are not repeated below.
 */
typedef struct ps_host {
    /* PS_MAGIC. */
    uint32_t magic;
    /* The step of the host. */
    uint32_t abi_version;
    /* Size of the table. */
    size_t size;

    /* Sends a message to one connection of this resource. It is copied into the bounded queue of
     * the connection; a client that reads too slowly is handled as the resource's `outbox_policy`
     * says. Errors: PS_GONE, PS_TOO_LARGE. */
    int (*send)(ps_host_context *context, uint64_t id, ps_message message);
    /* Sends a message to multiple connections; counts the queues that took it. NULL for `audience`
     * is all of this resource. */
    ps_count (*broadcast)(ps_host_context *context, const ps_audience *audience,
                          ps_message message);
    /* Sends a message to the client with this uuid (PS_TARGET_UUID) or to the backend that
     * announced this name (PS_TARGET_IDENT), on any resource. Errors: PS_GONE, PS_TOO_LARGE. */
    int (*feedback)(ps_host_context *context, uint32_t by, ps_str target, ps_message message);
    /* Adds a connection to a room of this resource. A room exists while it has members, and
     * survives a reload. Errors: PS_GONE, PS_TOO_LARGE (a name over 256 bytes), PS_TOO_MANY
     * (`max_rooms` of the connection). */
    int (*join)(ps_host_context *context, uint64_t id, ps_str room);
    /* Removes a connection from a room, of which it need not be a member. Errors: PS_GONE. */
    int (*leave)(ps_host_context *context, uint64_t id, ps_str room);
    /* Sends a message to the members of a room, without `except`; counts the queues that took it,
     * 0 for a room that does not exist. */
    ps_count (*publish)(ps_host_context *context, ps_str room, ps_ids except, ps_message message);
    /* As `send`, for a value of which only the latest matters: with `outbox_policy = "conflate"`
     * it replaces a waiting message with the same key. Errors: those of `send`, PS_TOO_LARGE for a
     * key over 256 bytes. */
    int (*send_latest)(ps_host_context *context, uint64_t id, ps_str key, ps_message message);
    /* As `broadcast`, with a key. Errors: PS_TOO_LARGE. */
    ps_count (*broadcast_latest)(ps_host_context *context, const ps_audience *audience, ps_str key,
                                 ps_message message);
    /* As `publish`, with a key. Errors: PS_TOO_LARGE. */
    ps_count (*publish_latest)(ps_host_context *context, ps_str room, ps_ids except, ps_str key,
                               ps_message message);
    /* Closes a connection after everything that was sent to it. `close` of the plugin follows.
     * Errors: PS_GONE. */
    int (*close)(ps_host_context *context, uint64_t id, uint16_t code, ps_str reason);
    /* Sets the `fyi` of the acknowledgements to this connection, until it is set again. Errors:
     * PS_GONE, PS_TOO_LARGE (4096 bytes). */
    int (*set_fyi)(ps_host_context *context, uint64_t id, ps_str fyi);
    /* Visits every open connection of this resource, in no particular order, before it returns. */
    int (*sessions)(ps_host_context *context, ps_visitor visitor);
    /* Writes a line to the host's log, with plugin, generation and resource. Works in every state
     * of the instance. */
    void (*log)(ps_host_context *context, uint32_t level, ps_str text);

    /* Defers the acknowledgement of the message that the calling thread is handling: the one at
     * `index` of `messages`, 0 in `message`. Counts the number of a ticket for `complete`. The
     * client is read no faster than tickets are completed. A ticket fails after `callback_limit`.
     * It survives the instance: store it in the snapshot, and complete it in the successor. Errors:
     * PS_INVALID outside of these callbacks, for another connection, or twice. */
    ps_count (*defer)(ps_host_context *context, uint64_t id, uint32_t index);
    /* Completes a deferred message, once, in every state of the instance. Errors: PS_GONE (the
     * connection has ended, or the ticket has expired), PS_TOO_LARGE (an `fyi` over 4096 bytes;
     * the ticket is still open). */
    int (*complete)(ps_host_context *context, uint64_t ticket, const ps_completion *completion);
    /* Answers an HTTP request, once, in every state of the instance. Errors: PS_GONE (the client
     * has left, the request has expired, or it is answered), PS_TOO_LARGE (`max_message` plus
     * 4 MiB; the request is still open). */
    int (*respond)(ps_host_context *context, uint64_t ticket, const ps_response *response);
    /* Posts bytes to this instance: its `event` receives them between messages, in the order of the
     * posts. In `start` they are kept until the instance serves. Those that wait when the instance
     * is replaced go to the successor. Errors: PS_TOO_MANY (`inbox_messages`), PS_TOO_LARGE
     * (1 MiB). */
    int (*post)(ps_host_context *context, ps_bytes bytes);
    /* Posts a pointer, which is not NULL. With PS_OK the host owns the value, and passes it to
     * `event` of this instance or to `free_value`, on any thread, if the instance is replaced
     * first. With an error it stays yours. `free_value` may be NULL. Errors: as `post`. */
    int (*post_value)(ps_host_context *context, void *value, void (*free_value)(void *value));
    /* Calls `timer` with this key after `millis`, or every `millis` if `repeats` is not 0. Replaces
     * a timer with the same key. The host keeps timers across a reload, and not across its restart.
     * In `start`, it begins when the instance serves. Errors: PS_TOO_LARGE (a key over 256 bytes),
     * PS_TOO_MANY (100,000 timers). */
    int (*set_timer)(ps_host_context *context, ps_str key, uint64_t millis, uint32_t repeats);
    /* Cancels a timer; counts 1 if there was one. */
    ps_count (*cancel_timer)(ps_host_context *context, ps_str key);

    /* Visits every member of a room, as `sessions`. */
    int (*members)(ps_host_context *context, ps_str room, ps_visitor visitor);
    /* Counts the members of a room. */
    ps_count (*room_count)(ps_host_context *context, ps_str room);
    /* Puts the name of each room of a connection. Errors: PS_GONE. */
    int (*rooms)(ps_host_context *context, uint64_t id, ps_sink names);
    /* Puts the name of each room of this resource. */
    int (*room_names)(ps_host_context *context, ps_sink names);
    /* Stores data with a room until its last member leaves; empty data removes it. Errors: PS_GONE
     * (no such room), PS_TOO_LARGE (65,536 bytes). */
    int (*set_room_data)(ps_host_context *context, ps_str room, ps_bytes data);
    /* Puts the data of a room once; nothing if there is none. */
    int (*room_data)(ps_host_context *context, ps_str room, ps_sink data);
    /* Puts the data of a connection once; nothing if there is none. Errors: PS_GONE. */
    int (*data)(ps_host_context *context, uint64_t id, ps_sink data);
    /* Stores data with a connection until it ends, also across a reload; empty data removes it.
     * Errors: PS_GONE, PS_TOO_LARGE (65,536 bytes). */
    int (*set_data)(ps_host_context *context, uint64_t id, ps_bytes data);

    /* Returns a PS_FIELD_... of a session; `data` is NULL if it has none. `name` is that of a header
     * or parameter, otherwise empty. Valid as long as the session. Works in every state. */
    ps_str (*session_field)(const ps_session *session, uint32_t field, ps_str name);
    /* Puts the data of a session, also in `close`; nothing if there is none. Works in every
     * state. */
    int (*session_data)(const ps_session *session, ps_sink data);
    /* Returns a PS_FIELD_... of a request, as session_field. */
    ps_str (*request_field)(const ps_request *request, uint32_t field, ps_str name);
    /* Puts name and value of each header by turns; names are in lower case. */
    int (*request_headers)(const ps_request *request, ps_sink texts);

    /* Registers a series; counts its number for `record`. Registering a series again, also after a
     * reload, continues it. Works in every state of the instance. Errors: PS_TOO_MANY (1,000 series
     * of the resource), PS_INVALID (a name, label or bucket). */
    ps_count (*metric)(ps_host_context *context, const ps_metric *metric);
    /* Changes a series. Works in every state of the instance. Errors: PS_INVALID. */
    int (*record)(ps_host_context *context, uint64_t series, uint32_t change, double value);
} ps_host;

/* ---- The plugin ------------------------------------------------------------------------------- */

/* Every callback returns without blocking: no file, network, lock or long computation. The instance
 * then shares the host's threads. */
#define PS_FLAG_NEVER_BLOCKS UINT64_C(1)
/* The host calls `messages` instead of `message`. */
#define PS_FLAG_BATCHES UINT64_C(2)
/* The host passes plain HTTP requests on the path to `request`. */
#define PS_FLAG_HTTP UINT64_C(4)

/* Why a snapshot is taken. */
enum {
    /* Another library takes over. */
    PS_SNAPSHOT_REPLACED = 1,
    /* A new instance with another configuration takes over. */
    PS_SNAPSHOT_RECONFIGURED = 2,
    /* A copy for the disk (`snapshot_every`); the instance continues. */
    PS_SNAPSHOT_STORED = 3,
    /* The last copy for the disk. */
    PS_SNAPSHOT_STOPPING = 4,
    /* A check of a library in another process. */
    PS_SNAPSHOT_CHECKED = 5
};

/* Why an instance retires. */
enum {
    PS_RETIRE_REPLACED = 1,
    PS_RETIRE_RECONFIGURED = 2,
    PS_RETIRE_REMOVED = 3,
    PS_RETIRE_DISABLED = 4,
    PS_RETIRE_STOPPING = 5
};

/* What an instance did with a changed configuration. */
enum { PS_CONFIG_RESTART = 0, PS_CONFIG_APPLIED = 1 };

/*
 * What the library exports: text about itself, and the callbacks of an instance. `instance` is what
 * `start` returned. `start`, `message` and `destroy` are required; every other callback may be NULL.
 */
typedef struct ps_plugin {
    /* PS_MAGIC. */
    uint32_t magic;
    /* PS_ABI_VERSION. */
    uint32_t abi_version;
    /* sizeof(struct ps_plugin). */
    size_t size;
    /* PS_FLAG_... */
    uint64_t flags;
    /* Name and version of the application, for operators. Not empty. */
    ps_str name;
    ps_str version;
    /* A git hash or a date; may be empty. */
    ps_str build;
    /* A JSON schema of the configuration, which the host applies before `start`; may be empty. */
    ps_str config_schema;

    /* Receives the log of the library. Called once, before everything else. */
    void (*attach)(const ps_log *log);
    /* Creates an instance, and returns a pointer that is not NULL. `config` is the table
     * [resources."/path".config] as a JSON object, {} if there is none: validate all of it here.
     * May block, up to `start_timeout`. An older instance may still be serving: leave its port or
     * file alone until `restore`. Errors: NULL after `fail`; the operator reads the reason, and an
     * older instance continues to serve. */
    void *(*start)(const ps_host *host, ps_host_context *context, ps_str config, ps_fail fail);
    /* Accepts a new connection. What is sent to it here arrives after `ready`. Errors: closes the
     * connection; no other callback is made for it. */
    int (*open)(void *instance, const ps_session *session, ps_fail fail);
    /* Handles one complete message, of at most `max_message` bytes. The host acknowledges it when
     * this returns, unless it is deferred. Errors: closes the connection; `close` follows. */
    int (*message)(void *instance, const ps_session *session, ps_message message, ps_fail fail);
    /* Handles the messages that one read of a connection brought, with PS_FLAG_BATCHES. Errors: as
     * `message`; the rest of the batch counts as handled. */
    int (*messages)(void *instance, const ps_session *session, const ps_message *messages,
                    size_t count, ps_fail fail);
    /* Reports the end of a connection, once for each that was accepted. */
    void (*close)(void *instance, const ps_session *session, const ps_close_reason *reason);
    /* Reports that a connection broke or violated the protocol; `close` follows. */
    void (*error)(void *instance, const ps_session *session, ps_str reason);
    /* Returns the milliseconds between calls of `tick`, 0 for none. Asked again after each tick and
     * after every few other callbacks. */
    uint64_t (*tick_every)(void *instance);
    /* Periodic work. `now` is in milliseconds since the Unix epoch. */
    void (*tick)(void *instance, uint64_t now);
    /* Puts the state for a successor, in one or multiple parts, and sets `*version`, which is 0
     * before, to the version of its format. Without a put there is no state. `reason` is a
     * PS_SNAPSHOT_.... Leave the state intact: this instance continues if the successor refuses.
     * Errors: a swap does not take place. */
    int (*snapshot)(void *instance, uint32_t reason, ps_sink state, uint32_t *version,
                    ps_fail fail);
    /* Takes over the state of a predecessor, which may be written in another language, before the
     * first event. The connections are not opened again: ps_host.sessions lists them. May block, up
     * to `restore_timeout`. Errors: the predecessor continues to serve. If NULL, every state is
     * refused. */
    int (*restore)(void *instance, uint32_t version, ps_bytes state, ps_fail fail);
    /* Handles what was posted. */
    void (*event)(void *instance, const ps_event *event);
    /* Reports that a timer has expired, never early. */
    void (*timer)(void *instance, ps_str key);
    /* Finishes what only this instance can finish: it receives nothing more. `reason` is a
     * PS_RETIRE_.... For `millis` or until it returns, the functions that name one connection still
     * work. */
    void (*retiring)(void *instance, uint32_t reason, uint64_t millis);
    /* Applies a changed configuration, and sets `*change` to PS_CONFIG_APPLIED; as long as that is
     * PS_CONFIG_RESTART, a new instance takes over instead. Errors: the whole changed file is not
     * applied. */
    int (*config_changed)(void *instance, ps_str config, uint32_t *change, ps_fail fail);
    /* Answers an HTTP request with ps_host.respond, here or later from any thread, with
     * PS_FLAG_HTTP. Without `auth`, any client may send requests. Errors: the host answers 500. */
    int (*request)(void *instance, const ps_request *request, ps_fail fail);
    /* Reserved: a connection broke and may be resumed. Not called by this version of the host. */
    void (*suspended)(void *instance, const ps_session *session);
    /* Reserved, as `suspended`. */
    void (*resumed)(void *instance, const ps_session *session);
    /* Frees the instance. Called once, last; end its threads. Must not block for long. */
    void (*destroy)(void *instance);
} ps_plugin;

/* What the library defines. Visible also with -fvisibility=hidden. */
__attribute__((visibility("default"))) extern const struct ps_plugin plugsocket_plugin_v1;

/* ---- Helpers ---------------------------------------------------------------------------------- */

/* Returns a NUL-terminated text, or an empty one for NULL. */
static inline ps_str ps_text(const char *text)
{
    ps_str borrowed = { text, 0 };
    if (text != NULL) {
        borrowed.size = strlen(text);
    }
    return borrowed;
}

/* Returns whether two texts are equal. */
static inline int ps_equal(ps_str a, ps_str b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/* Returns a text as a text message. */
static inline ps_message ps_text_message(ps_str text)
{
    ps_message message = { PS_TEXT, { (const uint8_t *)text.data, text.size } };
    return message;
}

/* Gives the reason why a callback fails, and returns what the callback returns then. */
static inline int ps_refuse(ps_fail fail, uint16_t close_code, const char *reason)
{
    fail.put(fail.context, close_code, ps_text(reason));
    return PS_INVALID;
}

#ifdef __cplusplus
}
#endif

#endif
