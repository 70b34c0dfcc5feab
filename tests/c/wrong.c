/*
 * Libraries that are refused, for tests: -DCASE=n. Case 0 is valid.
 */
#include <stdlib.h>

#include "plugsocket.h"

#ifndef CASE
#define CASE 0
#endif

/* A case leaves out what another one needs. */
#define MAYBE __attribute__((unused)) static

MAYBE int instance;

MAYBE void *start(const ps_host *host, ps_host_context *context, ps_str config, ps_fail fail)
{
    (void)host;
    (void)context;
    (void)config;
    (void)fail;
#if CASE == 12
    return NULL;
#elif CASE == 13
    abort();
#else
    return &instance;
#endif
}

MAYBE int message(void *instance, const ps_session *session, ps_message message, ps_fail fail)
{
    (void)instance;
    (void)session;
    (void)message;
    (void)fail;
    return PS_OK;
}

MAYBE int restore(void *instance, uint32_t version, ps_bytes state, ps_fail fail)
{
    (void)instance;
    (void)version;
    (void)state;
    (void)fail;
    return CASE == 16 ? 3 : PS_OK;
}

MAYBE void destroy(void *instance)
{
    (void)instance;
#if CASE == 14
    abort();
#endif
}

#if CASE == 15
__attribute__((constructor)) static void crash(void)
{
    abort();
}
#endif

const struct ps_plugin plugsocket_plugin_v1 = {
#if CASE == 1
    .magic = 0x12345678u,
#else
    .magic = PS_MAGIC,
#endif
#if CASE == 2
    .abi_version = 0,
#elif CASE == 3
    .abi_version = 0x10003u,
#else
    .abi_version = PS_ABI_VERSION,
#endif
#if CASE == 4
    .size = offsetof(struct ps_plugin, destroy),
#else
    .size = sizeof(struct ps_plugin),
#endif
#if CASE == 8
    .name = { "\xff", 1 },
#elif CASE != 9
    .name = PS_STR_INIT("wrong"),
#endif
#if CASE == 10
    .version = { "1\xc3", 2 },
#elif CASE != 11
    .version = PS_STR_INIT("1.0.0"),
#endif
#if CASE != 5
    .start = start,
#endif
#if CASE != 6
    .message = message,
#endif
#if CASE == 14 || CASE == 16
    .restore = restore,
#endif
#if CASE != 7
    .destroy = destroy,
#endif
};
