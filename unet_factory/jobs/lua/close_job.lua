-- Takes a job that has ended, and its owner's ('': nobody's), out of what is active. Needs: keys.
local function close_job(id, owner, current)
    redis.call('ZREM', ACTIVE, id)
    redis.call('DEL', lease_key(id))
    if owner and owner ~= '' then redis.call('ZREM', owner_key(owner), id) end
    redis.call('ZADD', UPLOADS, current, id)
end
