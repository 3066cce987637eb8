-- KEYS: lease. ARGV: owner, lease in ms, how many ms must be left of it for it to stay as it is (by default all: it is
-- extended). Returns 1 while the owner still holds it.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('PTTL', KEYS[1]) >= tonumber(ARGV[3] or ARGV[2]) then return 1 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
