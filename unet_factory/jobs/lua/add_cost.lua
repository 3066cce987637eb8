-- Adds a measurement, the newest first. KEYS: hash of kinds of worker, list of measurements; where it is a job's, the
-- list of seconds of all workers. ARGV: id of the kind, the kind, measurement, how many are kept, seconds that all of
-- it lasts, seconds of the job, how many of those are kept.
local lasts_s = ARGV[5]
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('LPUSH', KEYS[2], ARGV[3])
redis.call('LTRIM', KEYS[2], 0, ARGV[4] - 1)
if KEYS[3] then
    redis.call('LPUSH', KEYS[3], ARGV[6])
    redis.call('LTRIM', KEYS[3], 0, ARGV[7] - 1)
end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, lasts_s) end
