-- The names in Redis, as unet_factory/jobs/keys.py explains them; a test holds the two together.
local ACTIVE, EXPIRY, UPLOADS, PURGED = 'jobs:active', 'jobs:expiry', 'jobs:uploads', 'jobs:purged'
local DICOM_RESULTS = 'dicom:results'
local DELIVERY_QUEUES, DEAD_DELIVERIES = 'outbox:queues', 'outbox:dead'
local function job_key(id) return 'job:' .. id end
local function lease_key(id) return 'job:' .. id .. ':lease' end
local function tombstone_key(id) return 'job:' .. id .. ':gone' end
local function events_channel(id) return 'job:' .. id .. ':events' end
local function owner_key(owner) return 'jobs:of:' .. owner end
local function listing_key(owner) return 'jobs:listed:' .. owner end
local function stored_key(owner) return 'stored:of:' .. owner end
local function idempotency_key(key) return 'idempotency:' .. key end
local function delivery_field(name) return 'errand.' .. name end
local function delivery_name(field) return string.match(field, '^errand%.(%w+)$') end
local function delivery_queue(delivery) return 'outbox:due:' .. delivery.kind .. ':' .. delivery.destination end
local function delivery_lease_key(id) return 'outbox:lease:' .. id end
