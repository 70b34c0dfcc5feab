/*
 * Counts messages, and keeps the count when the library is replaced.
 *
 * Answers each message with {"opcode":"counted","by":"c","total":N}. Configuration: {"first": N},
 * the count at the beginning, 0 by default.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "plugsocket.h"

/* Names the build in answers: -DBY='"c2"'. */
#ifndef BY
#define BY "c"
#endif

/* Format of the state: two numbers of 8 bytes, little-endian. The second one is how many pairs
 * follow, of which this application writes none and skips all. */
#define STATE_VERSION 1u
#define STATE_SIZE 16u

struct counter {
    const ps_host *host;
    ps_host_context *context;
    uint64_t total;
};

/* Reads {} or {"first": N}; returns 0 for anything else. */
static int read_config(ps_str config, uint64_t *first)
{
    char text[64];
    int end = 0;

    if (config.size >= sizeof text) {
        return 0;
    }
    memcpy(text, config.data, config.size);
    text[config.size] = '\0';
    if (sscanf(text, " { } %n", &end) == 0 && end > 0 && text[end] == '\0') {
        return 1;
    }
    end = 0;
    return sscanf(text, " { \"first\" : %18" SCNu64 " } %n", first, &end) == 1 && end > 0 &&
           text[end] == '\0';
}

static void *start(const ps_host *host, ps_host_context *context, ps_str config, ps_fail fail)
{
    struct counter *counter;
    uint64_t first = 0;

    if (!read_config(config, &first)) {
        ps_refuse(fail, 0, "the configuration of the counter is {} or { first = NUMBER }");
        return NULL;
    }
    counter = malloc(sizeof *counter);
    if (counter == NULL) {
        ps_refuse(fail, 0, "out of memory");
        return NULL;
    }
    counter->host = host;
    counter->context = context;
    counter->total = first;
    return counter;
}

static int message(void *instance, const ps_session *session, ps_message message, ps_fail fail)
{
    struct counter *counter = instance;
    char answer[96];

    if (message.kind != PS_TEXT) {
        return ps_refuse(fail, PS_CLOSE_UNSUPPORTED, "text only");
    }
    counter->total += 1;
    snprintf(answer, sizeof answer,
             "{\"opcode\":\"counted\",\"by\":\"" BY "\",\"total\":%" PRIu64 "}", counter->total);
    /* Fails only if the client has left. */
    (void)counter->host->send(counter->context, session->id, ps_text_message(ps_text(answer)));
    return PS_OK;
}

static int snapshot(void *instance, uint32_t reason, ps_sink state, uint32_t *version,
                    ps_fail fail)
{
    const struct counter *counter = instance;
    uint8_t bytes[STATE_SIZE] = { 0 };
    ps_bytes whole = { bytes, sizeof bytes };
    unsigned at;

    (void)reason;
    (void)fail;
    for (at = 0; at < 8; at++) {
        bytes[at] = (uint8_t)(counter->total >> (8 * at));
    }
    *version = STATE_VERSION;
    state.put(state.context, whole);
    return PS_OK;
}

static int restore(void *instance, uint32_t version, ps_bytes state, ps_fail fail)
{
    struct counter *counter = instance;
    uint64_t total = 0;
    unsigned at;

    if (version != STATE_VERSION || state.size < STATE_SIZE) {
        return ps_refuse(fail, 0, "this is not a state of a counter, version 1");
    }
    for (at = 0; at < 8; at++) {
        total |= (uint64_t)state.data[at] << (8 * at);
    }
    counter->total = total;
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
    .name = PS_STR_INIT("counter"),
    .version = PS_STR_INIT("1.0.0"),
    .build = PS_STR_INIT(BY),
    .start = start,
    .message = message,
    .snapshot = snapshot,
    .restore = restore,
    .destroy = destroy,
};
