//! Views of part of a row-major matrix: some columns of some rows, as one head owns them.

use bytemuck::Pod;
use std::marker::PhantomData;

/// Columns of a matrix, to read.
pub struct Columns<'a, T> {
    data: &'a [T],
    stride: usize,
}

impl<T> Clone for Columns<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Columns<'_, T> {}

impl<'a, T> Columns<'a, T> {
    /// The columns from `column` on of the rows from `row` on, in a matrix with rows of `stride` elements.
    pub fn new(data: &'a [T], stride: usize, row: usize, column: usize) -> Self {
        // Behind the last row there is nothing, not even a column.
        Columns { data: data.get(row * stride + column..).unwrap_or(&[]), stride }
    }

    /// The first `width` columns of row `i`.
    #[inline(always)]
    pub fn row(&self, i: usize, width: usize) -> &'a [T] {
        &self.data[i * self.stride..][..width]
    }

    /// The same columns from row `first` on.
    pub fn from(self, first: usize) -> Self {
        self.skip(first * self.stride)
    }

    /// The same elements under another name of their type.
    pub fn cast<U: Pod>(self) -> Columns<'a, U>
    where
        T: Pod,
    {
        assert_eq!(size_of::<T>(), size_of::<U>(), "a name of the same type");
        Columns { data: bytemuck::cast_slice(self.data), stride: self.stride }
    }

    /// The same rows from column `first` on.
    pub fn skip(self, first: usize) -> Self {
        Columns { data: self.data.get(first..).unwrap_or(&[]), ..self }
    }
}

/// Columns of a matrix, to write. It is made whole from the matrix and then only cut up, so two of them never
/// overlap and different threads may write different heads of the same row.
pub struct ColumnsMut<'a, T> {
    start: *mut T,
    stride: usize,
    rows: usize,
    width: usize,
    matrix: PhantomData<&'a mut [T]>,
}

// SAFETY: a view is exclusive access to its own elements, as `&mut [T]` is.
unsafe impl<T: Send> Send for ColumnsMut<'_, T> {}

impl<'a, T> ColumnsMut<'a, T> {
    /// All of a matrix with rows of `stride` elements.
    pub fn new(data: &'a mut [T], stride: usize) -> Self {
        let rows = data.len() / stride.max(1);
        ColumnsMut { start: data.as_mut_ptr(), stride, rows, width: stride, matrix: PhantomData }
    }

    /// The same elements under another name of their type.
    pub fn cast<U: Pod>(self) -> ColumnsMut<'a, U>
    where
        T: Pod,
    {
        assert_eq!(
            (size_of::<T>(), align_of::<T>()),
            (size_of::<U>(), align_of::<U>()),
            "a name of the same type"
        );
        let ColumnsMut { start, stride, rows, width, .. } = self;
        ColumnsMut { start: start.cast(), stride, rows, width, matrix: PhantomData }
    }

    /// Takes the first `count` rows off.
    pub fn cut_rows(&mut self, count: usize) -> Self {
        assert!(count <= self.rows, "cut {count} rows off {}", self.rows);
        let first = ColumnsMut { rows: count, ..*self };
        // Where nothing is left this may point behind the matrix; it is then never read.
        self.start = self.start.wrapping_add(count * self.stride);
        self.rows -= count;
        first
    }

    /// Takes the first `count` columns off.
    pub fn cut_columns(&mut self, count: usize) -> Self {
        assert!(count <= self.width, "cut {count} columns off {}", self.width);
        let first = ColumnsMut { width: count, ..*self };
        self.start = self.start.wrapping_add(count);
        self.width -= count;
        first
    }

    /// Row `i`.
    #[inline(always)]
    pub fn row(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: row i < rows and its `width` elements lie in the matrix that `new` borrowed for 'a; cutting
        // leaves every element with exactly one view, and `&mut self` makes this the only access through this one.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(i * self.stride), self.width) }
    }
}
