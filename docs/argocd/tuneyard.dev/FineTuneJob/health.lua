-- The health of a FineTuneJob for Argo CD: Progressing until the run of the present spec has succeeded or failed.
local hs = {status = "Progressing", message = "Waiting for the operator"}
if obj.status == nil or obj.status.conditions == nil then
  return hs
end
if obj.status.observedGeneration ~= obj.metadata.generation then
  hs.message = "The operator has not observed the new spec yet"
  return hs
end

local by_type = {}
for _, condition in ipairs(obj.status.conditions) do
  by_type[condition.type] = condition
end

local function is_true(type)
  return by_type[type] ~= nil and by_type[type].status == "True"
end

local function report(status, condition)
  hs.status = status
  hs.message = condition.message or ""
  return hs
end

local function report_with_reason(status, condition)
  report(status, condition)
  hs.message = condition.reason .. (hs.message ~= "" and ": " .. hs.message or "")
  return hs
end

if is_true("Failed") then
  return report_with_reason("Degraded", by_type.Failed)
end
if is_true("Succeeded") then
  return report("Healthy", by_type.Succeeded)
end
if is_true("Suspended") then
  return report("Suspended", by_type.Suspended)
end
if by_type.Succeeded ~= nil then
  return report_with_reason("Progressing", by_type.Succeeded)
end
return hs
