-- Deny what was issued until then; what is denied already is never shortened. What is not ours is written over.
-- KEYS: denial
-- ARGV: issued until, until, and how many ms that is from now
local issued, till, ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local known_issued, known_till = string.match(redis.call('GET', KEYS[1]) or '', '^(%S+) (%S+)$')
if tonumber(known_issued or '') and tonumber(known_till) then
  if tonumber(known_issued) > tonumber(issued) then issued = known_issued end
  if tonumber(known_till) > tonumber(till) then till = known_till end
  ms = math.max(ms, redis.call('PTTL', KEYS[1]))
end
if ms > 0 then redis.call('SET', KEYS[1], issued .. ' ' .. till, 'PX', string.format('%.0f', ms)) end
return 1
