/*
 * Counts messages, and sends the count to all clients: {"opcode":"count","count":1}.
 * plugsocket.h describes every function.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "plugsocket.h"

/* The version of the state that `snapshot` writes: eight bytes, the least significant first. */
#define STATE_VERSION 1
#define STATE_BYTES 8

struct application {
    const ps_host *host;
    ps_host_context *context;
    uint64_t count;
};

static void *start(const ps_host *host, ps_host_context *context, ps_str config, ps_fail fail)
{
    struct application *app;
    /* This application has no settings; a mistake must not go unnoticed. */
    if (!ps_equal(config, ps_text("{}"))) {
        ps_refuse(fail, PS_CLOSE_POLICY, "there are no settings; remove the table config");
        return NULL;
    }
    app = calloc(1, sizeof *app);
    if (app == NULL) {
        ps_refuse(fail, PS_CLOSE_ERROR, "out of memory");
        return NULL;
    }
    app->host = host;
    app->context = context;
    return app;
}

static int message(void *instance, const ps_session *session, ps_message message, ps_fail fail)
{
    struct application *app = instance;
    ps_audience audience = { PS_SCOPE_RESOURCE, 0, { NULL, 0 } };
    char text[64];
    (void)session;
    if (message.kind != PS_TEXT) {
        return ps_refuse(fail, PS_CLOSE_UNSUPPORTED, "a message must be text");
    }
    app->count += 1;
    snprintf(text, sizeof text, "{\"opcode\":\"count\",\"count\":%" PRIu64 "}", app->count);
    /* Fails only if this instance has been replaced. */
    (void)app->host->broadcast(app->context, &audience, ps_text_message(ps_text(text)));
    return PS_OK;
}

static int snapshot(void *instance, uint32_t reason, ps_sink state, uint32_t *version,
                    ps_fail fail)
{
    const struct application *app = instance;
    uint8_t bytes[STATE_BYTES];
    ps_bytes all = { bytes, sizeof bytes };
    int i;
    (void)reason;
    (void)fail;
    for (i = 0; i < STATE_BYTES; i++) {
        bytes[i] = (uint8_t)(app->count >> (8 * i));
    }
    *version = STATE_VERSION;
    state.put(state.context, all);
    return PS_OK;
}

static int restore(void *instance, uint32_t version, ps_bytes state, ps_fail fail)
{
    struct application *app = instance;
    int i;
    if (version != STATE_VERSION || state.size != STATE_BYTES) {
        return ps_refuse(fail, PS_CLOSE_ERROR, "the state is of another version");
    }
    app->count = 0;
    for (i = 0; i < STATE_BYTES; i++) {
        app->count |= (uint64_t)state.data[i] << (8 * i);
    }
    return PS_OK;
}

static void destroy(void *instance)
{
    free(instance);
}

const struct ps_plugin plugsocket_plugin_v1 = {
    .magic = PS_MAGIC,
    .abi_version = PS_ABI_VERSION,
    .size = sizeof(struct ps_plugin),
    .flags = PS_FLAG_NEVER_BLOCKS,
    .name = PS_STR_INIT("@NAME@"),
    .version = PS_STR_INIT("0.1.0"),
    .start = start,
    .message = message,
    .snapshot = snapshot,
    .restore = restore,
    .destroy = destroy,
};
