//! Sends each message back to its sender.

const std = @import("std");
const ps = @import("plugsocket");

const Echo = struct {
    host: *const ps.ps_host,
    context: ?*ps.ps_host_context,
};

fn start(
    host: [*c]const ps.ps_host,
    context: ?*ps.ps_host_context,
    _: ps.ps_str,
    fail: ps.ps_fail,
) callconv(.c) ?*anyopaque {
    const echo = std.heap.c_allocator.create(Echo) catch {
        _ = ps.ps_refuse(fail, ps.PS_CLOSE_ERROR, "out of memory");
        return null;
    };
    echo.* = .{ .host = host, .context = context };
    return echo;
}

fn message(
    instance: ?*anyopaque,
    session: [*c]const ps.ps_session,
    received: ps.ps_message,
    _: ps.ps_fail,
) callconv(.c) c_int {
    const echo: *Echo = @ptrCast(@alignCast(instance.?));
    // Fails only if the client has left.
    _ = echo.host.send.?(echo.context, session.*.id, received);
    return ps.PS_OK;
}

fn destroy(instance: ?*anyopaque) callconv(.c) void {
    const echo: *Echo = @ptrCast(@alignCast(instance.?));
    std.heap.c_allocator.destroy(echo);
}

fn text(comptime literal: []const u8) ps.ps_str {
    return .{ .data = literal.ptr, .size = literal.len };
}

export const plugsocket_plugin_v1: ps.ps_plugin = .{
    .magic = ps.PS_MAGIC,
    .abi_version = ps.PS_ABI_VERSION,
    .size = @sizeOf(ps.ps_plugin),
    .name = text("echo"),
    .version = text("1.0.0"),
    .start = start,
    .message = message,
    .destroy = destroy,
};
