-- Where the delivery of an id lies: its job's id, and the field of the job's hash. Needs: keys.
local function place_of(delivery_id) return string.sub(delivery_id, 1, 32), delivery_field(string.sub(delivery_id, 34)) end
