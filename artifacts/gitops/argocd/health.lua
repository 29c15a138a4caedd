-- SPDX-License-Identifier: Apache-2.0
-- Health of an HSMSecret for Argo CD: resource.customizations.health.hsm.j5t.io_HSMSecret in the ConfigMap argocd-cm.
-- What one reads through the API needs no projection, so an HSMSecret that no controller has touched yet is only Progressing.
local health = {status = "Progressing", message = "waiting for the controller"}
local status = obj.status
if status == nil or status.conditions == nil then
  return health
end
if status.observedGeneration ~= nil and obj.metadata.generation ~= nil and status.observedGeneration < obj.metadata.generation then
  health.message = "waiting for the controller to see the last change"
  return health
end
local synced
for _, condition in ipairs(status.conditions) do
  if condition.type == "Synced" then
    synced = condition
  end
end
if synced == nil then
  return health
end
health.message = synced.message
if synced.status == "True" then
  health.status = "Healthy"
elseif synced.reason == "AutoSyncOff" then
  -- As its owner wants it.
  health.status = "Suspended"
elseif synced.reason == "SecretTerminating" then
  health.status = "Progressing"
else
  health.status = "Degraded"
end
return health
