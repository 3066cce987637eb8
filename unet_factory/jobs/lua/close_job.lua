-- Takes a job that has ended out of what is active. Needs: keys, now.
local function close_job(id)
    local owner = redis.call('HGET', job_key(id), 'owner')
    redis.call('ZREM', ACTIVE, id)
    redis.call('DEL', lease_key(id))
    if owner then redis.call('ZREM', owner_key(owner), id) end
    redis.call('ZADD', UPLOADS, now(), id)
end
