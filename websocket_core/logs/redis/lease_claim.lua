-- Claim leases that have expired: they are lost to whoever held them, and due again if whoever claims them dies.
-- KEYS: due, lost
-- ARGV: last contact and contact without a break since, in ms; lease ms, ms to settle, ms to remember, most
-- Answer: now, since when there was contact without a break, then the members
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last, since, lease = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if now < last or now - last > lease / 2 then since = now end
local answer = {string.format('%.0f', now), string.format('%.0f', since)}
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))
if now - since >= lease then
  local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[6])
  for _, member in ipairs(due) do
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[4]), member)
    redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[5]), member)
    answer[#answer + 1] = member
  end
  if #due > 0 then redis.call('PEXPIRE', KEYS[2], ARGV[5]) end
end
return answer
