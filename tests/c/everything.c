/*
 * Uses every callback and every function of the host, for tests.
 *
 * A command is a text of words; the answer is {"r":"TEXT"}. A status is its number. The table in
 * `commands` names them. The configuration is not parsed: words in it have an effect.
 *
 *     word in the configuration   effect
 *     no-start                    `start` fails
 *     tick                        a tick each 10 ms
 *     applied, refused            result of `config_changed`
 *
 * Builds: -DNO_EVENT has no `event`; -DBATCHES takes batches; -DLATER states a later step and a
 * longer table.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "plugsocket.h"

struct app {
    const ps_host *host;
    ps_host_context *context;
    /* The sender of the last message. */
    uint64_t last;
    /* Statuses of calls in `start`. */
    int early_send, early_post, early_timer;
    int ticks;
    /* Names of the callbacks that were called. */
    char calls[256];
};

/* A command is handled with this. */
struct call {
    struct app *app;
    const ps_session *session;
    const char *argument;
    ps_fail fail;
};

static const ps_log *library_log;

static const ps_str none = { NULL, 0 };

static void note(struct app *app, const char *name)
{
    char word[32];

    snprintf(word, sizeof word, " %s ", name);
    if (strstr(app->calls, word) == NULL && strlen(app->calls) + strlen(word) < sizeof app->calls) {
        strcat(app->calls, word);
    }
}

static int send_to(struct app *app, uint64_t id, const char *format, ...)
{
    char text[1024], packet[1100];
    va_list values;
    char *at;

    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    for (at = text; *at != '\0'; at++) {
        if (*at == '"') {
            *at = '\'';
        }
    }
    snprintf(packet, sizeof packet, "{\"r\":\"%s\"}", text);
    return app->host->send(app->context, id, ps_text_message(ps_text(packet)));
}

static void log_line(struct app *app, const char *format, ...)
{
    char text[256];
    va_list values;

    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    app->host->log(app->context, PS_LOG_INFO, ps_text(text));
}

/* ---- Sinks ------------------------------------------------------------------------------------ */

struct texts {
    char text[512];
    int count;
};

static void put_text(void *context, ps_bytes bytes)
{
    struct texts *texts = context;
    size_t used = strlen(texts->text);

    texts->count++;
    if (used + bytes.size + 2 < sizeof texts->text) {
        texts->text[used] = ' ';
        memcpy(texts->text + used + 1, bytes.data, bytes.size);
        texts->text[used + 1 + bytes.size] = '\0';
    }
}

static void visit(void *context, const ps_session *session)
{
    struct texts *texts = context;

    texts->count += session->uuid.size == 101 && session->kind == PS_WEBSOCKET;
}

static int answer_texts(struct call *call, int status, const struct texts *texts)
{
    return send_to(call->app, call->session->id, "%d %d%s", status, texts->count, texts->text);
}

static ps_bytes bytes_of(const char *text)
{
    ps_bytes bytes = { (const uint8_t *)text, strlen(text) };
    return bytes;
}

static ps_message packet(const char *text)
{
    return ps_text_message(ps_text(text));
}

static int answer(struct call *call, int status)
{
    return send_to(call->app, call->session->id, "%d", status);
}

static int answer_count(struct call *call, ps_count count)
{
    return send_to(call->app, call->session->id, "%d %" PRIu64, count.status, count.count);
}

/* ---- Commands --------------------------------------------------------------------------------- */

#define HOST (call->app->host)
#define CONTEXT (call->app->context)
#define ID (call->session->id)
#define ARGUMENT ps_text(call->argument)

static int about_host(struct call *call)
{
    return send_to(call->app, ID, "step %u magic %d size %d has %d", HOST->abi_version,
                   HOST->magic == PS_MAGIC, HOST->size >= sizeof *HOST, PS_HAS(HOST, record));
}

static int calls(struct call *call)
{
    return send_to(call->app, ID, "%s", call->app->calls);
}

static int early(struct call *call)
{
    const struct app *app = call->app;
    return send_to(call->app, ID, "send %d post %d timer %d", app->early_send, app->early_post,
                   app->early_timer);
}

static int broadcast(struct call *call)
{
    return answer_count(call, HOST->broadcast(CONTEXT, NULL, packet("{\"to\":\"resource\"}")));
}

static int broadcast_others(struct call *call)
{
    ps_audience audience = { PS_SCOPE_ALL, 1, { NULL, 0 } };
    audience.except.data = &call->session->id;
    audience.except.count = 1;
    return answer_count(call, HOST->broadcast(CONTEXT, &audience, packet("{\"to\":\"others\"}")));
}

static int feedback(struct call *call)
{
    return answer(call, HOST->feedback(CONTEXT, PS_TARGET_UUID, ARGUMENT, packet("{\"to\":\"uuid\"}")));
}

static int feedback_ident(struct call *call)
{
    return answer(call, HOST->feedback(CONTEXT, PS_TARGET_IDENT, ARGUMENT, packet("{}")));
}

static int join(struct call *call)
{
    return answer(call, HOST->join(CONTEXT, ID, ARGUMENT));
}

static int leave(struct call *call)
{
    return answer(call, HOST->leave(CONTEXT, ID, ARGUMENT));
}

static int publish(struct call *call)
{
    ps_ids nobody = { NULL, 0 };
    return answer_count(call, HOST->publish(CONTEXT, ARGUMENT, nobody, packet("{\"to\":\"room\"}")));
}

static int send_latest(struct call *call)
{
    return answer(call, HOST->send_latest(CONTEXT, ID, ps_text("k"), packet("{\"to\":\"latest\"}")));
}

static int broadcast_latest(struct call *call)
{
    return answer_count(
        call, HOST->broadcast_latest(CONTEXT, NULL, ps_text("k"), packet("{\"to\":\"latest\"}")));
}

static int publish_latest(struct call *call)
{
    ps_ids nobody = { NULL, 0 };
    return answer_count(call, HOST->publish_latest(CONTEXT, ARGUMENT, nobody, ps_text("k"),
                                                   packet("{\"to\":\"latest\"}")));
}

static int close_it(struct call *call)
{
    /* A broken text is replaced. */
    return HOST->close(CONTEXT, ID, 4001, ps_text("as \xff requested"));
}

static int set_fyi(struct call *call)
{
    return answer(call, HOST->set_fyi(CONTEXT, ID, ARGUMENT));
}

static int sessions(struct call *call)
{
    struct texts seen = { "", 0 };
    ps_visitor visitor = { &seen, visit };
    int status = HOST->sessions(CONTEXT, visitor);
    return answer_texts(call, status, &seen);
}

static int log_it(struct call *call)
{
    HOST->log(CONTEXT, PS_LOG_WARN, ps_text("a broken \xff text"));
    library_log->write(library_log->context, PS_LOG_WARN, ps_text("here"), ps_text("of the library"));
    return answer(call, library_log->max_level > 0 ? PS_OK : PS_INVALID);
}

/* Refuses it later if there is an argument. */
static int defer(struct call *call)
{
    ps_count ticket = HOST->defer(CONTEXT, ID, 0);
    char text[64];
    if (ticket.status != PS_OK) {
        return ticket.status;
    }
    snprintf(text, sizeof text, "%s %" PRIu64, call->argument[0] == '\0' ? "done" : "refused",
             ticket.count);
    return HOST->post(CONTEXT, bytes_of(text));
}

static int defer_twice(struct call *call)
{
    ps_count first = HOST->defer(CONTEXT, ID, 0), second = HOST->defer(CONTEXT, ID, 0);
    ps_count other = HOST->defer(CONTEXT, ID + 1, 0);
    ps_completion completion = { PS_DONE, 0, { NULL, 0 } };
    send_to(call->app, ID, "%d %d %d", first.status, second.status, other.status);
    return HOST->complete(CONTEXT, first.count, &completion);
}

static int post(struct call *call)
{
    return answer(call, HOST->post(CONTEXT, bytes_of("posted")));
}

static void *post_from_thread(void *context)
{
    struct app *app = context;
    app->host->post(app->context, bytes_of("from a thread"));
    return NULL;
}

static int thread(struct call *call)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, post_from_thread, call->app) != 0) {
        return PS_INVALID;
    }
    pthread_join(thread, NULL);
    return answer(call, PS_OK);
}

static void free_value(void *value)
{
    library_log->write(library_log->context, PS_LOG_INFO, none, ps_text("value freed"));
    free(value);
}

static int post_value(struct call *call)
{
    int *value = malloc(sizeof *value);
    int status;
    if (value == NULL) {
        return PS_INVALID;
    }
    *value = 42;
    status = HOST->post_value(CONTEXT, value, free_value);
    if (status != PS_OK) {
        free(value);
    }
    return answer(call, status);
}

static int set_timer(struct call *call)
{
    return answer(call, HOST->set_timer(CONTEXT, ARGUMENT, 1, 0));
}

static int cancel_timer(struct call *call)
{
    int set = HOST->set_timer(CONTEXT, ps_text("never"), 3600000, 1);
    ps_count first = HOST->cancel_timer(CONTEXT, ps_text("never"));
    ps_count second = HOST->cancel_timer(CONTEXT, ps_text("never"));
    return send_to(call->app, ID, "%d %d %" PRIu64 " %d %" PRIu64, set, first.status, first.count,
                   second.status, second.count);
}

static int members(struct call *call)
{
    struct texts seen = { "", 0 };
    ps_visitor visitor = { &seen, visit };
    int status = HOST->members(CONTEXT, ARGUMENT, visitor);
    return answer_texts(call, status, &seen);
}

static int room_count(struct call *call)
{
    return answer_count(call, HOST->room_count(CONTEXT, ARGUMENT));
}

static int rooms(struct call *call)
{
    struct texts names = { "", 0 };
    ps_sink sink = { &names, put_text };
    int status = HOST->rooms(CONTEXT, ID, sink);
    return answer_texts(call, status, &names);
}

static int room_names(struct call *call)
{
    struct texts names = { "", 0 };
    ps_sink sink = { &names, put_text };
    int status = HOST->room_names(CONTEXT, sink);
    return answer_texts(call, status, &names);
}

static int set_room_data(struct call *call)
{
    return answer(call, HOST->set_room_data(CONTEXT, ARGUMENT, bytes_of("topic")));
}

static int room_data(struct call *call)
{
    struct texts data = { "", 0 };
    ps_sink sink = { &data, put_text };
    int status = HOST->room_data(CONTEXT, ARGUMENT, sink);
    return answer_texts(call, status, &data);
}

static int set_data(struct call *call)
{
    return answer(call, HOST->set_data(CONTEXT, ID, bytes_of("seat")));
}

static int data(struct call *call)
{
    struct texts data = { "", 0 };
    ps_sink sink = { &data, put_text };
    int status = HOST->data(CONTEXT, ID, sink);
    return answer_texts(call, status, &data);
}

static int session_data(struct call *call)
{
    struct texts data = { "", 0 };
    ps_sink sink = { &data, put_text };
    int status = HOST->session_data(call->session, sink);
    return answer_texts(call, status, &data);
}

/* The argument is a number, or PS_FIELD_HEADER and a name. */
static int field(struct call *call)
{
    char *name;
    uint32_t number = (uint32_t)strtoul(call->argument, &name, 10);
    ps_str text = HOST->session_field(call->session, number, ps_text(*name == ' ' ? name + 1 : name));
    if (text.data == NULL) {
        return send_to(call->app, ID, "absent");
    }
    return send_to(call->app, ID, "is %.*s", (int)text.size, text.data);
}

static int metric(struct call *call)
{
    const double buckets[] = { 1.0, 2.5 };
    const ps_pair labels[] = { { PS_STR_INIT("kind"), PS_STR_INIT("c") } };
    ps_metric metric = { PS_HISTOGRAM, PS_STR_INIT("sizes"), PS_STR_INIT("Sizes."), labels, 1,
                         buckets, 2 };
    ps_count series = HOST->metric(CONTEXT, &metric);
    int recorded = HOST->record(CONTEXT, series.count, PS_OBSERVE, 2.0);
    return send_to(call->app, ID, "%d %d", series.status, recorded);
}

/* Each call passes something that is not valid; answers which ones are not refused. */
static int invalid(struct call *call)
{
    static const uint64_t ids[2] = { 1, 2 };
    const ps_str broken = { "\xff", 1 }, null = { NULL, 1 }, huge = { "x", (size_t)-1 / 2 + 1 };
    const ps_bytes no_bytes = { NULL, 1 };
    const ps_message broken_text = { PS_TEXT, { (const uint8_t *)"\xff", 1 } };
    const ps_message no_kind = { 0, { NULL, 0 } }, empty = { PS_BINARY, { NULL, 0 } };
    const ps_ids crooked = { (const uint64_t *)(const void *)((const char *)ids + 1), 1 };
    const ps_ids many = { ids, (size_t)-1 / 8 }, nobody = { NULL, 0 };
    const ps_sink no_sink = { NULL, NULL };
    const ps_visitor no_visitor = { NULL, NULL };
    const ps_audience no_scope = { 9, 0, { NULL, 0 } };
    const ps_completion no_completion = { 9, 0, { NULL, 0 } };
    const ps_completion broken_fyi = { PS_DONE_WITH_FYI, 0, { "\xff", 1 } };
    const ps_response no_headers = { 200, NULL, 1, { NULL, 0 } };
    const ps_metric no_name = { PS_COUNTER, { "\xff", 1 }, { NULL, 0 }, NULL, 0, NULL, 0 };
    const int results[] = {
        HOST->join(CONTEXT, ID, broken),
        HOST->join(CONTEXT, ID, null),
        HOST->join(CONTEXT, ID, huge),
        HOST->join(NULL, ID, none),
        HOST->leave(CONTEXT, ID, broken),
        HOST->send(CONTEXT, ID, broken_text),
        HOST->send(CONTEXT, ID, no_kind),
        HOST->send_latest(CONTEXT, ID, broken, empty),
        HOST->broadcast(CONTEXT, &no_scope, empty).status,
        HOST->broadcast_latest(CONTEXT, NULL, broken, empty).status,
        HOST->publish(CONTEXT, none, crooked, empty).status,
        HOST->publish(CONTEXT, none, many, empty).status,
        HOST->publish_latest(CONTEXT, none, nobody, broken, empty).status,
        HOST->feedback(CONTEXT, 9, none, empty),
        HOST->set_fyi(CONTEXT, ID, broken),
        HOST->sessions(CONTEXT, no_visitor),
        HOST->complete(CONTEXT, 1, NULL),
        HOST->complete(CONTEXT, 1, &no_completion),
        HOST->complete(CONTEXT, 1, &broken_fyi),
        HOST->respond(CONTEXT, 1, NULL),
        HOST->respond(CONTEXT, 1, &no_headers),
        HOST->post(CONTEXT, no_bytes),
        HOST->post_value(CONTEXT, NULL, NULL),
        HOST->set_timer(CONTEXT, broken, 1, 0),
        HOST->cancel_timer(CONTEXT, broken).status,
        HOST->members(CONTEXT, none, no_visitor),
        HOST->room_count(CONTEXT, broken).status,
        HOST->rooms(CONTEXT, ID, no_sink),
        HOST->room_names(CONTEXT, no_sink),
        HOST->set_room_data(CONTEXT, none, no_bytes),
        HOST->room_data(CONTEXT, none, no_sink),
        HOST->data(CONTEXT, ID, no_sink),
        HOST->set_data(CONTEXT, ID, no_bytes),
        HOST->session_data(NULL, no_sink),
        HOST->request_headers(NULL, no_sink),
        HOST->metric(CONTEXT, &no_name).status,
        HOST->metric(CONTEXT, NULL).status,
        HOST->session_field(NULL, PS_FIELD_PATH, none).data == NULL ? PS_INVALID : PS_OK,
        HOST->request_field(NULL, PS_FIELD_PATH, none).data == NULL ? PS_INVALID : PS_OK,
    };
    const unsigned count = sizeof results / sizeof results[0];
    unsigned at;
    for (at = 0; at < count; at++) {
        if (results[at] != PS_INVALID) {
            return send_to(call->app, ID, "call %u: %d", at, results[at]);
        }
    }
    return send_to(call->app, ID, "all are refused");
}

static int refuse(struct call *call)
{
    return ps_refuse(call->fail, 4002, call->argument);
}

static int fail_without_reason(struct call *call)
{
    (void)call;
    return 7;
}

static const struct {
    const char *word;
    int (*run)(struct call *call);
} commands[] = {
    { "host", about_host },
    { "calls", calls },
    { "early", early },
    { "broadcast", broadcast },
    { "others", broadcast_others },
    { "feedback", feedback },
    { "feedback-ident", feedback_ident },
    { "join", join },
    { "leave", leave },
    { "publish", publish },
    { "latest", send_latest },
    { "broadcast-latest", broadcast_latest },
    { "publish-latest", publish_latest },
    { "close", close_it },
    { "fyi", set_fyi },
    { "sessions", sessions },
    { "log", log_it },
    { "defer", defer },
    { "defer-twice", defer_twice },
    { "post", post },
    { "thread", thread },
    { "post-value", post_value },
    { "timer", set_timer },
    { "cancel", cancel_timer },
    { "members", members },
    { "count", room_count },
    { "rooms", rooms },
    { "room-names", room_names },
    { "set-room-data", set_room_data },
    { "room-data", room_data },
    { "set-data", set_data },
    { "data", data },
    { "session-data", session_data },
    { "field", field },
    { "metric", metric },
    { "invalid", invalid },
    { "refuse", refuse },
    { "fail", fail_without_reason },
};

/* ---- Callbacks -------------------------------------------------------------------------------- */

static int contains(ps_str text, const char *word)
{
    size_t length = strlen(word), at;

    for (at = 0; at + length <= text.size; at++) {
        if (memcmp(text.data + at, word, length) == 0) {
            return 1;
        }
    }
    return 0;
}

static void attach(const ps_log *log)
{
    library_log = log;
}

static void *start(const ps_host *host, ps_host_context *context, ps_str config, ps_fail fail)
{
    struct app *app;

    if (contains(config, "no-start")) {
        /* A broken text is replaced. */
        ps_refuse(fail, 0, "the word \xff no-start is in its configuration");
        return NULL;
    }
    app = calloc(1, sizeof *app);
    if (app == NULL) {
        ps_refuse(fail, 0, "out of memory");
        return NULL;
    }
    app->host = host;
    app->context = context;
    app->ticks = contains(config, "tick");
    app->early_send = send_to(app, 1, "early");
    app->early_post = host->post(context, bytes_of("early"));
    app->early_timer = host->set_timer(context, ps_text("early"), 1, 0);
    if (library_log != NULL) {
        note(app, "attach");
    }
    note(app, "start");
    return app;
}

static int open_session(void *instance, const ps_session *session, ps_fail fail)
{
    struct app *app = instance;

    note(app, "open");
    if (contains(app->host->session_field(session, PS_FIELD_QUERY, none), "refuse")) {
        return ps_refuse(fail, 4003, "this session is refused");
    }
    return PS_OK;
}

static int one_message(void *instance, const ps_session *session, ps_message message, ps_fail fail)
{
    struct call call = { instance, session, "", fail };
    char text[256], *space;
    size_t at;

    call.app->last = session->id;
    if (message.kind != PS_TEXT || message.bytes.size >= sizeof text) {
        return ps_refuse(fail, PS_CLOSE_UNSUPPORTED, "short texts only");
    }
    memcpy(text, message.bytes.data, message.bytes.size);
    text[message.bytes.size] = '\0';
    space = strchr(text, ' ');
    if (space != NULL) {
        *space = '\0';
        call.argument = space + 1;
    }
    for (at = 0; at < sizeof commands / sizeof commands[0]; at++) {
        if (strcmp(text, commands[at].word) == 0) {
            return commands[at].run(&call);
        }
    }
    return ps_refuse(fail, PS_CLOSE_INVALID, "this is not a command");
}

static int message(void *instance, const ps_session *session, ps_message message, ps_fail fail)
{
    note(instance, "message");
    return one_message(instance, session, message, fail);
}

static int messages(void *instance, const ps_session *session, const ps_message *messages,
                    size_t count, ps_fail fail)
{
    size_t at;
    int status = PS_OK;

    note(instance, "messages");
    for (at = 0; at < count && status == PS_OK; at++) {
        status = one_message(instance, session, messages[at], fail);
    }
    return status;
}

static void close_session(void *instance, const ps_session *session, const ps_close_reason *reason)
{
    struct texts data = { "", 0 };
    ps_sink sink = { &data, put_text };
    struct app *app = instance;
    int status = app->host->session_data(session, sink);

    note(app, "close");
    log_line(app, "closed %u by %u: %.*s; data %d%s", reason->code, reason->by,
             (int)reason->text.size, reason->text.data, status, data.text);
}

static void error(void *instance, const ps_session *session, ps_str reason)
{
    (void)session;
    note(instance, "error");
    log_line(instance, "error: %.*s", (int)reason.size, reason.data);
}

static uint64_t tick_every(void *instance)
{
    const struct app *app = instance;
    return app->ticks ? 10 : 0;
}

static void tick(void *instance, uint64_t now)
{
    struct app *app = instance;

    if (app->ticks == 1) {
        app->ticks = 2;
        log_line(app, "tick %d", now > UINT64_C(1500000000000));
    }
}

static int snapshot(void *instance, uint32_t reason, ps_sink state, uint32_t *version,
                    ps_fail fail)
{
    (void)fail;
    log_line(instance, "snapshot for %u", reason);
    *version = 9;
    state.put(state.context, bytes_of("in two "));
    state.put(state.context, bytes_of("parts"));
    return PS_OK;
}

static int restore(void *instance, uint32_t version, ps_bytes state, ps_fail fail)
{
    struct app *app = instance;

    if (version != 9 || state.size != 12 || memcmp(state.data, "in two parts", 12) != 0) {
        return ps_refuse(fail, 0, "this is another state");
    }
    note(app, "restore");
    return PS_OK;
}

#ifndef NO_EVENT
static void event(void *instance, const ps_event *event)
{
    struct app *app = instance;
    char text[64] = "", word[16] = "";
    uint64_t ticket = 0;

    note(app, "event");
    if (event->value != NULL) {
        send_to(app, app->last, "value %d", *(int *)event->value);
        free(event->value);
        return;
    }
    if (event->bytes.size < sizeof text) {
        memcpy(text, event->bytes.data, event->bytes.size);
    }
    if (sscanf(text, "%15s %" SCNu64, word, &ticket) == 2) {
        ps_completion completion = { PS_DONE_WITH_FYI, 0, PS_STR_INIT("late") };
        if (strcmp(word, "refused") == 0) {
            completion.kind = PS_REFUSED;
            completion.code = 4004;
        }
        app->host->complete(app->context, ticket, &completion);
    } else {
        send_to(app, app->last, "event %s", text);
    }
}
#endif

static void timer(void *instance, ps_str key)
{
    struct app *app = instance;

    note(app, "timer");
    if (!ps_equal(key, ps_text("early"))) {
        send_to(app, app->last, "timer %.*s", (int)key.size, key.data);
    }
}

static void retiring(void *instance, uint32_t reason, uint64_t millis)
{
    struct app *app = instance;

    log_line(app, "retiring for %u: send %d, publish %d, time %d", reason,
             send_to(app, app->last, "last words"),
             app->host->broadcast(app->context, NULL, packet("{}")).status, millis > 0);
}

static int config_changed(void *instance, ps_str config, uint32_t *change, ps_fail fail)
{
    note(instance, "config_changed");
    if (contains(config, "refused")) {
        return ps_refuse(fail, 0, "the word refused is in its configuration");
    }
    if (contains(config, "applied")) {
        *change = PS_CONFIG_APPLIED;
    }
    return PS_OK;
}

static int request(void *instance, const ps_request *request, ps_fail fail)
{
    struct app *app = instance;
    struct texts headers = { "", 0 };
    ps_sink sink = { &headers, put_text };
    ps_str path = app->host->request_field(request, PS_FIELD_PATH, none);
    const ps_pair type = { PS_STR_INIT("Content-Type"), PS_STR_INIT("text/plain") };
    ps_response response = { 200, &type, 1, { NULL, 0 } };
    char text[600];

    if (contains(app->host->request_field(request, PS_FIELD_QUERY, none), "fail")) {
        return ps_refuse(fail, PS_CLOSE_ERROR, "requested");
    }
    app->host->request_headers(request, sink);
    snprintf(text, sizeof text, "%.*s %.*s %u %zu%s", (int)request->method.size,
             request->method.data, (int)path.size, path.data, request->kind, request->body.size,
             headers.text);
    response.body = bytes_of(text);
    return app->host->respond(app->context, request->ticket, &response);
}

static void suspended(void *instance, const ps_session *session)
{
    (void)instance;
    (void)session;
}

static void destroy(void *instance)
{
    struct app *app = instance;
    log_line(app, "destroyed");
    free(app);
}

const struct ps_plugin plugsocket_plugin_v1 = {
    .magic = PS_MAGIC,
#ifdef LATER
    .abi_version = PS_ABI_VERSION + 1,
    .size = sizeof(struct ps_plugin) + sizeof(void *),
#else
    .abi_version = PS_ABI_VERSION,
    .size = sizeof(struct ps_plugin),
#endif
#ifdef BATCHES
    .flags = PS_FLAG_HTTP | PS_FLAG_BATCHES,
#else
    .flags = PS_FLAG_HTTP | PS_FLAG_NEVER_BLOCKS,
#endif
    .name = PS_STR_INIT("everything"),
    .version = PS_STR_INIT("0.1.0"),
    .build = PS_STR_INIT("test"),
    .config_schema = PS_STR_INIT("{\"type\":\"object\"}"),
    .attach = attach,
    .start = start,
    .open = open_session,
    .message = message,
    .messages = messages,
    .close = close_session,
    .error = error,
    .tick_every = tick_every,
    .tick = tick,
    .snapshot = snapshot,
    .restore = restore,
#ifndef NO_EVENT
    .event = event,
#endif
    .timer = timer,
    .retiring = retiring,
    .config_changed = config_changed,
    .request = request,
    .suspended = suspended,
    .resumed = suspended,
    .destroy = destroy,
};
