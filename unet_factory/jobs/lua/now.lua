-- Seconds since the epoch by the server's clock.
local function now()
    local time = redis.call('TIME')
    return time[1] + time[2] / 1e6
end
