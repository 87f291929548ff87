-- Note that a user has a connection now; the longest unused goes first when there are too many.
-- KEYS: connections
-- ARGV: connection id, age ms, most connections
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
-- each is younger than all before it, also within a microsecond and when the clock is set back
local youngest = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
local at = youngest and math.max(now, tonumber(youngest) + 1) or now
redis.call('ZADD', KEYS[1], string.format('%.0f', at), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - ARGV[2] * 1000))
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, string.format('%d', -ARGV[3] - 1))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
