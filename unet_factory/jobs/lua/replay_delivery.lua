-- ARGV: id. Makes a delivery due now; returns it as it is then, or nothing. One that nobody may replay stays as it is.
--@include keys
--@include now
--@include states
--@include place_of
local id, current = ARGV[1], now()
local job_id, field = place_of(id)
local value = redis.call('HGET', job_key(job_id), field)
if not value then return false end
local delivery = cjson.decode(value)
if delivery.state == 'skipped' or is_open(state_of(job_id)) then return value end
if redis.call('EXISTS', delivery_lease_key(id)) == 1 then return value end
delivery.state, delivery.attempts, delivery.lost = 'pending', 0, 0
delivery.next_attempt, delivery.since = current, cjson.null
value = cjson.encode(delivery)
redis.call('HSET', job_key(job_id), field, value)
redis.call('ZADD', delivery_queue(delivery), current, id)
redis.call('SADD', DELIVERY_QUEUES, delivery_queue(delivery))
redis.call('ZREM', DEAD_DELIVERIES, id)
return value
