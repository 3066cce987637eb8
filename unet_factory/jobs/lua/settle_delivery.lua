#!lua flags=allow-oom
-- KEYS: queue. ARGV: id, owner, delivery, seconds until the next attempt (empty: there is none). For the owner alone.
-- Once one got through, the destination is back: whatever waits there for a later attempt is due at once.
--@include keys
--@include now
--@include place_of
local id, owner, delay_s, current = ARGV[1], ARGV[2], ARGV[4], now()
local job_id, field = place_of(id)
if redis.call('GET', delivery_lease_key(id)) ~= owner then return 0 end
redis.call('DEL', delivery_lease_key(id))
if redis.call('HEXISTS', job_key(job_id), field) == 0 then redis.call('ZREM', KEYS[1], id) return 0 end
local delivery = cjson.decode(ARGV[3])
if delay_s == '' then
    redis.call('ZREM', KEYS[1], id)
else
    delivery.next_attempt = current + delay_s
    redis.call('ZADD', KEYS[1], delivery.next_attempt, id)
end
if delivery.state == 'dead' and delivery.kind ~= 'fetch' then redis.call('ZADD', DEAD_DELIVERIES, current, id) end
if delivery.state == 'delivered' then
    for _, waiting in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], current, '+inf', 'LIMIT', 0, 1000)) do
        if redis.call('EXISTS', delivery_lease_key(waiting)) == 0 then redis.call('ZADD', KEYS[1], current, waiting) end
    end
end
redis.call('HSET', job_key(job_id), field, cjson.encode(delivery))
return 1
