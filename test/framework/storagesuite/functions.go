// SPDX-License-Identifier: Apache-2.0

package storagesuite

import (
	"context"
	"testing"

	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

// functions are all exported Run functions of the suite of v0.37.2 but its benchmarks.
var functions = []function{
	// Create, get.
	{name: "RunTestCreate", variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestCreate(ctx, t, f, f.validateStored)
	})},
	{name: "RunTestCreateWithTTL", variants: onStore(storagetesting.RunTestCreateWithTTL)},
	{name: "RunTestCreateWithKeyExist", variants: onStore(storagetesting.RunTestCreateWithKeyExist)},
	{name: "RunTestGet", variants: onStore(storagetesting.RunTestGet)},
	{name: "RunTestKeySchema", variants: onStore(storagetesting.RunTestKeySchema)},

	// Delete.
	{name: "RunTestUnconditionalDelete", variants: onStore(storagetesting.RunTestUnconditionalDelete)},
	{name: "RunTestConditionalDelete", variants: onStore(storagetesting.RunTestConditionalDelete)},
	{name: "RunTestDeleteWithSuggestion", variants: onStore(storagetesting.RunTestDeleteWithSuggestion)},
	{name: "RunTestDeleteWithSuggestionAndConflict", variants: onStore(storagetesting.RunTestDeleteWithSuggestionAndConflict)},
	{name: "RunTestDeleteWithSuggestionOfDeletedObject", variants: onStore(storagetesting.RunTestDeleteWithSuggestionOfDeletedObject)},
	{name: "RunTestDeleteWithConflict", variants: onStore(storagetesting.RunTestDeleteWithConflict)},
	{name: "RunTestValidateDeletionWithSuggestion", variants: onStore(storagetesting.RunTestValidateDeletionWithSuggestion)},
	{name: "RunTestValidateDeletionWithOnlySuggestionValid", variants: onStore(storagetesting.RunTestValidateDeletionWithOnlySuggestionValid)},
	{name: "RunTestPreconditionalDeleteWithSuggestion", variants: onStore(storagetesting.RunTestPreconditionalDeleteWithSuggestion)},
	{name: "RunTestPreconditionalDeleteWithOnlySuggestionPass", variants: onStore(storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass)},
	{name: "RunTestDeleteExpectedTransformOrDecodeError", gates: withUnsafeDelete, variants: map[string]runFunc{
		"transform": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteExpectedTransformOrDecodeError(ctx, t, f, f.failTransformer())
		},
		"decode": func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteExpectedTransformOrDecodeError(ctx, t, f, f.layout.codec.failing.Store)
		},
	}},
	{name: "RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError", gates: withUnsafeDelete, variants: one(
		func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError(ctx, t, f, f.layout.codec.failing.Store)
		})},
	{name: "RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError", gates: withUnsafeDelete, variants: one(
		func(ctx context.Context, t *testing.T, f *fixture) {
			storagetesting.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(ctx, t, f)
		})},

	// List.
	{name: "RunTestList", variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestList(ctx, t, f, f.compact, false, nil)
	})},
	{name: "RunTestConsistentList", variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestConsistentList(ctx, t, f, f.increaseRevision, false, true, false)
	})},
	{name: "RunTestGetListNonRecursive", variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestGetListNonRecursive(ctx, t, f.increaseRevision, f)
	})},
	{name: "RunTestGetListRecursivePrefix", variants: onStore(storagetesting.RunTestGetListRecursivePrefix)},
	{name: "RunTestGetListWithErrorAggregation", gates: withUnsafeDelete, variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestGetListWithErrorAggregation(ctx, t, f, errCorrupt)
	})},
	{name: "RunTestGetListWithoutErrorAggregation", gates: withoutUnsafeDelete, variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestGetListWithoutErrorAggregation(ctx, t, f, errCorrupt)
	})},
	{name: "RunTestListContinuation", variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestListContinuation(ctx, t, f, nil)
	})},
	{name: "RunTestListPaginationRareObject", variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestListPaginationRareObject(ctx, t, f, nil)
	})},
	{name: "RunTestListContinuationWithFilter", variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestListContinuationWithFilter(ctx, t, f, nil)
	})},
	{name: "RunTestListInconsistentContinuation", variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestListInconsistentContinuation(ctx, t, f, f.compact)
	})},
	{name: "RunTestListResourceVersionMatch", variants: onPrefix(storagetesting.RunTestListResourceVersionMatch)},
	{name: "RunTestListPaging", variants: onStore(storagetesting.RunTestListPaging)},
	{name: "RunTestNamespaceScopedList", variants: onStore(storagetesting.RunTestNamespaceScopedList)},
	{name: "RunTestCompactRevision", variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestCompactRevision(ctx, t, f, f.increaseRevision, f.compact)
	})},
	{name: "RunTestStats", variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestStats(ctx, t, f, f.layout.codec, *f.layout.transformer.Load(), false)
	})},

	// Update.
	{name: "RunTestGuaranteedUpdate", variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestGuaranteedUpdate(ctx, t, f, f.validateStored)
	})},
	{name: "RunTestGuaranteedUpdateWithTTL", variants: onStore(storagetesting.RunTestGuaranteedUpdateWithTTL)},
	{name: "RunTestGuaranteedUpdateChecksStoredData", variants: onPrefix(storagetesting.RunTestGuaranteedUpdateChecksStoredData)},
	{name: "RunTestGuaranteedUpdateWithConflict", variants: onStore(storagetesting.RunTestGuaranteedUpdateWithConflict)},
	{name: "RunTestGuaranteedUpdateWithSuggestionAndConflict", variants: onStore(storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict)},
	{name: "RunTestTransformationFailure", variants: onPrefix(storagetesting.RunTestTransformationFailure)},

	// Watch.
	{name: "RunTestWatch", variants: onStore(storagetesting.RunTestWatch)},
	{name: "RunTestClusterScopedWatch", variants: onStore(storagetesting.RunTestClusterScopedWatch)},
	{name: "RunTestNamespaceScopedWatch", variants: onStore(storagetesting.RunTestNamespaceScopedWatch)},
	{name: "RunTestDeleteTriggerWatch", variants: onStore(storagetesting.RunTestDeleteTriggerWatch)},
	{name: "RunTestWatchFromZero", variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestWatchFromZero(ctx, t, f, f.compact)
	})},
	{name: "RunTestWatchFromNonZero", variants: onStore(storagetesting.RunTestWatchFromNonZero)},
	{name: "RunTestDelayedWatchDelivery", variants: onStore(storagetesting.RunTestDelayedWatchDelivery)},
	{name: "RunTestWatchError", variants: onPrefix(storagetesting.RunTestWatchError)},
	{name: "RunTestWatchWithUnsafeDelete", gates: withUnsafeDelete, variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestWatchWithUnsafeDelete(ctx, t, f, errCorrupt)
	})},
	{name: "RunTestWatchContextCancel", variants: onStore(storagetesting.RunTestWatchContextCancel)},
	{name: "RunTestWatcherTimeout", variants: onStore(storagetesting.RunTestWatcherTimeout)},
	{name: "RunTestWatchDeleteEventObjectHaveLatestRV", variants: onStore(storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV)},
	{name: "RunTestWatchInitializationSignal", variants: onStore(storagetesting.RunTestWatchInitializationSignal)},
	{name: "RunOptionalTestProgressNotify", variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunOptionalTestProgressNotify(ctx, t, withProgress{f, t}, f.increaseRevision)
	})},
	{name: "RunTestWatchDispatchBookmarkEvents", variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, f, true)
	})},
	{name: "RunTestOptionalWatchBookmarksWithCorrectResourceVersion", variants: one(func(ctx context.Context, t *testing.T, f *fixture) {
		storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion(ctx, t, patientWrites{f})
	})},
	{name: "RunSendInitialEventsBackwardCompatibility", variants: onStore(storagetesting.RunSendInitialEventsBackwardCompatibility)},
	{name: "RunWatchSemantics", variants: onStore(storagetesting.RunWatchSemantics)},
	{name: "RunWatchSemanticInitialEventsExtended", variants: onStore(storagetesting.RunWatchSemanticInitialEventsExtended)},
	{name: "RunWatchListMatchSingle", variants: onStore(storagetesting.RunWatchListMatchSingle)},
	{name: "RunWatchErrorIsBlockingFurtherEvents", variants: onPrefix(storagetesting.RunWatchErrorIsBlockingFurtherEvents)},
}
