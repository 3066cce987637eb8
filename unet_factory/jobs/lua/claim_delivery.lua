#!lua flags=allow-oom
-- KEYS: queue. ARGV: owner, lease in ms. Returns the id, the delivery with its attempt counted, and how long ago it was
-- first tried, or nothing. While it is held it has no next attempt; whoever finds it due like that knows that the last
-- courier was lost.
--@include keys
--@include now
--@include place_of
local current = now()
local id = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', current, 'LIMIT', 0, 1)[1]
if not id then
    if redis.call('ZCARD', KEYS[1]) == 0 then redis.call('SREM', DELIVERY_QUEUES, KEYS[1]) end
    return false
end
local job_id, field = place_of(id)
local value = redis.call('HGET', job_key(job_id), field)
if not value then redis.call('ZREM', KEYS[1], id) return false end
local delivery = cjson.decode(value)
if delivery.attempts > 0 and delivery.next_attempt == cjson.null then delivery.lost = delivery.lost + 1 end
delivery.attempts, delivery.next_attempt = delivery.attempts + 1, cjson.null
if delivery.since == cjson.null then delivery.since = current end
value = cjson.encode(delivery)
redis.call('HSET', job_key(job_id), field, value)
redis.call('ZADD', KEYS[1], current + ARGV[2] / 1000, id)
redis.call('SET', delivery_lease_key(id), ARGV[1], 'PX', ARGV[2])
return {id, value, tostring(current - delivery.since)}
