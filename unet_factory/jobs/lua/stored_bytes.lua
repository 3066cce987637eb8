-- Bytes of all that is stored for an owner. Needs: keys.
local function stored_bytes(owner)
    local sum = 0
    for _, bytes in ipairs(redis.call('HVALS', stored_key(owner))) do sum = sum + tonumber(bytes) end
    return sum
end
