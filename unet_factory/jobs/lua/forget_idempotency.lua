-- ARGV: idempotency key, job id. Drops the entry if it is that job's.
--@include keys
local key, suffix = idempotency_key(ARGV[1]), ' ' .. ARGV[2]
local entry = redis.call('GET', key)
if entry and string.sub(entry, -string.len(suffix)) == suffix then redis.call('DEL', key) end
