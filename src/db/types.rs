//! How our own types are stored: instants, ids and states as integers.

use sqlx::{
    Decode, Encode, Sqlite, Type,
    encode::IsNull,
    error::BoxDynError,
    sqlite::{SqliteArgumentsBuffer, SqliteTypeInfo, SqliteValueRef},
};

use super::state::{CopyState, EventKind, IssueState, SubscriptionState};
use crate::{
    id::{IssueId, NewsletterId, NodeId, ServiceMailId, SubscriberId},
    timestamp::Timestamp,
};

macro_rules! stored_as_integer {
    ($($type:ty: |$value:ident| $to:expr, |$integer:ident| $from:expr;)*) => {$(
        impl Type<Sqlite> for $type {
            fn type_info() -> SqliteTypeInfo {
                <i64 as Type<Sqlite>>::type_info()
            }

            fn compatible(other: &SqliteTypeInfo) -> bool {
                <i64 as Type<Sqlite>>::compatible(other)
            }
        }

        impl Encode<'_, Sqlite> for $type {
            fn encode_by_ref(&self, out: &mut SqliteArgumentsBuffer) -> Result<IsNull, BoxDynError> {
                let $value = *self;
                Encode::<Sqlite>::encode($to, out)
            }
        }

        impl Decode<'_, Sqlite> for $type {
            fn decode(value: SqliteValueRef<'_>) -> Result<Self, BoxDynError> {
                let $integer = <i64 as Decode<Sqlite>>::decode(value)?;
                Ok($from)
            }
        }
    )*};
}

stored_as_integer! {
    Timestamp: |value| value.microseconds(), |integer| Timestamp::from_microseconds(integer);
    NewsletterId: |value| value.0, |integer| NewsletterId(integer);
    IssueId: |value| value.0, |integer| IssueId(integer);
    SubscriberId: |value| value.0, |integer| SubscriberId(integer);
    ServiceMailId: |value| value.0, |integer| ServiceMailId(integer);
    NodeId: |value| value.0, |integer| NodeId(integer);
    CopyState: |value| value as i64, |integer| CopyState::try_from(integer)?;
    EventKind: |value| value as i64, |integer| EventKind::try_from(integer)?;
    IssueState: |value| value as i64, |integer| IssueState::try_from(integer)?;
    SubscriptionState: |value| value as i64, |integer| SubscriptionState::try_from(integer)?;
}
