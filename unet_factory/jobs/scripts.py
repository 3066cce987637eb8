"""What the job store has Redis do at one stroke, as Lua scripts: nobody sees, or dies in, the middle of a step."""

from unet_factory.jobs.deliveries import MAKE_DUE_WHEN_FINAL

SEALED = "-"  # in place of an idempotency entry's fingerprint, once the job was purged

# KEYS: job hash, lease. ARGV: owner, lease ms. Returns 1 when the owner now holds the job. Only a queued job can be
# claimed: a running one whose lease has ended comes back through the reaper alone, which caps the attempts.
CLAIM = """
if redis.call('HGET', KEYS[1], 'state') ~= '"queued"' then return 0 end
if not redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'state', '"running"')
redis.call('HINCRBY', KEYS[1], 'attempts', 1)
return 1
"""
# KEYS: lease. ARGV: owner, lease ms. Returns 1 while the owner still holds it.
RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
# KEYS: job hash, lease. ARGV: owner, field, value, ... Writes only for the owner of a job that is not final.
WRITE_AS_OWNER = f"""
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= '"queued"' and state ~= '"running"' then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
{MAKE_DUE_WHEN_FINAL}
return 1
"""
# KEYS: job hash. ARGV: field, value, ... Moves a job that is not final yet, whoever holds it.
WRITE_UNLESS_FINAL = f"""
local state = redis.call('HGET', KEYS[1], 'state')
if state ~= '"queued"' and state ~= '"running"' then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
{MAKE_DUE_WHEN_FINAL}
return 1
"""
# KEYS: job hash, lease. Back to the queue, if nobody holds it.
REQUEUE = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if redis.call('HGET', KEYS[1], 'state') ~= '"running"' then return 0 end
redis.call('HSET', KEYS[1], 'state', '"queued"', 'progress', '0.0')
return 1
"""
# KEYS: job hash, expiry set. ARGV: seconds since the epoch, the job's id. Keeps a job longer, never shorter.
KEEP = """
if redis.call('EXISTS', KEYS[1]) == 0 or redis.call('HGET', KEYS[1], 'expires') + 0 >= ARGV[1] + 0 then return 0 end
redis.call('HSET', KEYS[1], 'expires', ARGV[1])
redis.call('ZADD', KEYS[2], 'XX', ARGV[1], ARGV[2])
return 1
"""
# KEYS: idempotency entry. ARGV: how the entry of the job to be forgotten ends.
FORGET = """
local entry = redis.call('GET', KEYS[1])
if entry and string.sub(entry, -string.len(ARGV[1])) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""

# KEYS: idempotency entry. ARGV: how that of the purged job ends. The key stays taken, what it stood for is dropped.
SEAL = f"""
local entry = redis.call('GET', KEYS[1])
if entry and string.sub(entry, -string.len(ARGV[1])) == ARGV[1] then
    redis.call('SET', KEYS[1], '{SEALED}' .. ARGV[1], 'KEEPTTL')
end
"""
# KEYS: job hash, set of active ones, lease, uploads. ARGV: id, now. A job that is final is taken out of what is active.
CLOSE = """
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3])
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner then redis.call('ZREM', 'jobs:of:' .. owner, ARGV[1]) end
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('ZADD', KEYS[4], ARGV[2], ARGV[1]) end
"""
# KEYS: an owner's jobs. ARGV: id, how many are allowed, now, since when a place without a job is void.
RESERVE = """
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[4])) do
    local state = redis.call('HGET', 'job:' .. id, 'state')
    if state ~= '"queued"' and state ~= '"running"' then redis.call('ZREM', KEYS[1], id) end
end
if redis.call('ZCARD', KEYS[1]) >= ARGV[2] + 0 then return 0 end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 1
"""
