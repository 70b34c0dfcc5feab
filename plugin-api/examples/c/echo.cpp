// Sends each message to all clients in the room ?room=NAME of its sender, "lobby" by default.

#include <memory>
#include <new>
#include <string>
#include <string_view>

#include "plugsocket.h"

namespace {

ps_str lend(std::string_view text) noexcept
{
    return {text.data(), text.size()};
}

class Echo {
public:
    Echo(const ps_host *host, ps_host_context *context) noexcept : host_(host), context_(context) {}

    int open(const ps_session &session, ps_fail fail) const
    {
        const std::string room = room_of(session);
        if (host_->join(context_, session.id, lend(room)) != PS_OK) {
            return ps_refuse(fail, PS_CLOSE_POLICY, "the name of the room is not valid");
        }
        return PS_OK;
    }

    void message(const ps_session &session, ps_message message) const
    {
        const std::string room = room_of(session);
        host_->publish(context_, lend(room), {nullptr, 0}, message);
    }

private:
    std::string room_of(const ps_session &session) const
    {
        constexpr std::string_view key = "room=";
        const ps_str query = host_->session_field(&session, PS_FIELD_QUERY, {nullptr, 0});
        const std::string_view text(query.data, query.size);
        return std::string(text.substr(0, key.size()) == key ? text.substr(key.size()) : "lobby");
    }

    const ps_host *host_;
    ps_host_context *context_;
};

// No exception may leave a callback.
template <typename Body>
int guarded(ps_fail fail, Body body) noexcept
{
    try {
        return body();
    } catch (const std::exception &error) {
        return ps_refuse(fail, PS_CLOSE_ERROR, error.what());
    } catch (...) {
        return ps_refuse(fail, PS_CLOSE_ERROR, "the application failed");
    }
}

Echo &echo(void *instance) noexcept
{
    return *static_cast<Echo *>(instance);
}

void *start(const ps_host *host, ps_host_context *context, ps_str, ps_fail fail) noexcept
{
    void *instance = nullptr;
    guarded(fail, [&] {
        instance = std::make_unique<Echo>(host, context).release();
        return PS_OK;
    });
    return instance;
}

int open(void *instance, const ps_session *session, ps_fail fail) noexcept
{
    return guarded(fail, [&] { return echo(instance).open(*session, fail); });
}

int message(void *instance, const ps_session *session, ps_message message, ps_fail fail) noexcept
{
    return guarded(fail, [&] {
        echo(instance).message(*session, message);
        return PS_OK;
    });
}

void destroy(void *instance) noexcept
{
    delete &echo(instance);
}

// C++17 has no designated initializers.
constexpr ps_plugin table() noexcept
{
    ps_plugin plugin{};
    plugin.magic = PS_MAGIC;
    plugin.abi_version = PS_ABI_VERSION;
    plugin.size = sizeof(ps_plugin);
    plugin.name = PS_STR_INIT("echo");
    plugin.version = PS_STR_INIT("1.0.0");
    plugin.start = start;
    plugin.open = open;
    plugin.message = message;
    plugin.destroy = destroy;
    return plugin;
}

}  // namespace

const struct ps_plugin plugsocket_plugin_v1 = table();
