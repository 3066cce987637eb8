-- A job's hash, read once: field, value, ... Needs: keys.
local function fields_of(id) return redis.call('HGETALL', job_key(id)) end
local function field(fields, name)
    for i = 1, #fields, 2 do
        if fields[i] == name then return fields[i + 1] end
    end
    return false
end
